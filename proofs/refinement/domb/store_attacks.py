"""Attacks on XenStore's rules under a fault, staged in lockstep: guests act on each other's nodes.

Each scenario is a script of two guests that DomB has built and a tool has introduced. The daemon, with a fault of the same
meaning as that of the rules, serves the attacker's request; the claim falls, and after the request both sides are in the
same state. Without the faults the same request is refused, or reaches nobody. Not here: how a script is run (staged.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.rings import pages as wire
from bulkhead.proofs.refinement.domb.attacks import Staging
from bulkhead.proofs.refinement.domb.daemons import Daemons
from bulkhead.proofs.refinement.domb.guests import drain, put
from bulkhead.proofs.refinement.domb.staged import Scene
from bulkhead.proofs.refinement.domb.store_side import StoreSide
from bulkhead.proofs.refinement.domb.watched_daemons import STORE_RINGS, XENSTORE_REF, frame
from bulkhead.proofs.refinement.domb.world import DOMB
from bulkhead.proofs.refinement.lockstep.abstraction import Places
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

SHARED: Final = "/tool/a"  # a node of Dom0's


class Town:
    """Guests with a ring to XenStore, and the tool that connects and disconnects them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        scene.connect()
        self.tool = scene.follower.who
        scene.daemons = self.daemons = Daemons(scene.rig, scene.follower, StoreSide(scene.book))
        scene.book.goes_on = True
        self.numbers = 0

    def order(self, op: int, domid: int) -> None:
        """The tool has DomB do something with a guest."""
        self.scene.follower.who = self.tool
        self.scene.send(op, p.DOMID.pack(domid))
        self.scene.domb()
        answer = self.scene.receive()
        if answer is None or answer.status:
            raise Mismatch(f"DomB does not do {op} with domain {domid}: {answer}")

    def _compare(self) -> None:
        out: Places = {}
        self.daemons.compare(out)
        if out:
            raise Mismatch("rules and daemons differ", out)

    def administer(self, kind: int, *words: str) -> None:
        """A request of the tool to XenStore, which must succeed."""
        self.scene.follower.who = self.tool
        assert self.daemons.stored is not None
        self.daemons.stored.request(0, kind, 0, b"".join(word.encode() + b"\0" for word in words))
        self._compare()

    def guest(self) -> int:
        """A guest is built, started and introduced: the id, the smallest that is free."""
        self.scene.follower.who = self.tool
        self.scene.rig.xen.last_domid = DOMB
        answer = self.scene.create()
        assert answer is not None and answer.status == 0
        built = p.unpack_guest(answer.body)
        self.order(p.UNPAUSE, built.domid)
        self.administer(wire.XS_INTRODUCE, str(built.domid), "7", str(built.store_port))
        return built.domid

    def gone(self, domid: int) -> None:
        """The guest is released and destroyed."""
        self.administer(wire.XS_RELEASE, str(domid))
        self.order(p.DESTROY, domid)

    def asks(self, domid: int, kind: int, payload: str) -> None:
        """A guest puts a request into its ring, and the daemon serves it."""
        domain = self.scene.rig.xen.domains[domid]
        page = self.scene.rig.xen.frames.get(domain.grant_table.entry_v1(XENSTORE_REF)[2])
        assert page is not None
        self.numbers += 1
        drain(page.bytes(), STORE_RINGS[1])
        put(page.bytes(), STORE_RINGS[0], frame(kind, self.numbers, 0, payload.encode()))
        assert self.daemons.stored is not None
        self.daemons.serve(self.daemons.stored)
        self._compare()


def data(domid: int, name: str = "") -> str:
    """A guest's own node, or one below it."""
    return f"/local/domain/{domid}/data{'/' if name else ''}{name}"


def inherits(kind: int, letter: str) -> Callable[[Scene], None]:
    """A node is opened for a guest, which ends; the next one with its id turns to it."""

    def scenario(scene: Scene) -> None:
        town = Town(scene)
        old = town.guest()
        town.administer(wire.XS_MKDIR, SHARED)
        town.administer(wire.XS_SET_PERMS, SHARED, "n0", f"{letter}{old}")
        town.gone(old)
        if town.guest() != old:
            raise Mismatch(f"no guest gets the id {old} again")
        town.asks(old, kind, f"{SHARED}\0")

    return scenario


def leaves_its_nodes(scene: Scene) -> None:
    """A guest is given a node outside of its home, and ends."""
    town = Town(scene)
    guest = town.guest()
    town.administer(wire.XS_MKDIR, SHARED)
    town.administer(wire.XS_SET_PERMS, SHARED, f"n{guest}")
    town.gone(guest)


def asks_for_what_is_there(scene: Scene) -> None:
    """A guest makes a node that another one has, and may not see it."""
    town = Town(scene)
    one, other = town.guest(), town.guest()
    town.asks(other, wire.XS_MKDIR, f"{data(one)}\0")


def asks_for_what_is_missing(scene: Scene) -> None:
    """A guest removes a node that another one has not, where it may see nothing."""
    town = Town(scene)
    one, other = town.guest(), town.guest()
    town.asks(other, wire.XS_RM, f"{data(one, 'x')}\0")


def rings_at_anothers(scene: Scene) -> None:
    """A guest makes a node of another's that it may write and that is there; the owner watches it."""
    town = Town(scene)
    one, other = town.guest(), town.guest()
    town.asks(one, wire.XS_SET_PERMS, f"{data(one)}\0n{one}\0b{other}\0")
    town.asks(one, wire.XS_WATCH, f"{data(one)}\0t\0")
    town.asks(other, wire.XS_MKDIR, f"{data(one)}\0")


def hears_of_a_removal(scene: Scene) -> None:
    """A guest watches a node of another's that it may not see, and the owner removes it."""
    town = Town(scene)
    one, other = town.guest(), town.guest()
    town.asks(one, wire.XS_MKDIR, f"{data(one, 'x')}\0")
    town.asks(other, wire.XS_WATCH, f"{data(one, 'x')}\0t\0")
    town.asks(one, wire.XS_RM, f"{data(one, 'x')}\0")


def of_a_reader(kind: int, name: str) -> Callable[[Scene], None]:
    """A guest opens its node for another one to read, which turns to it, or to a name below."""

    def scenario(scene: Scene) -> None:
        town = Town(scene)
        one, other = town.guest(), town.guest()
        town.asks(one, wire.XS_SET_PERMS, f"{data(one)}\0n{one}\0r{other}\0")
        town.asks(other, kind, f"{data(one, name)}\0")

    return scenario


def opens_anothers(scene: Scene) -> None:
    """A guest opens its node for another one to write, which opens it to all."""
    town = Town(scene)
    one, other = town.guest(), town.guest()
    town.asks(one, wire.XS_SET_PERMS, f"{data(one)}\0n{one}\0w{other}\0")
    town.asks(one, wire.XS_WATCH, f"{data(one)}\0t\0")
    town.asks(other, wire.XS_SET_PERMS, f"{data(one)}\0b{one}\0")


STORE: Final = "tools/store:Store."
WRITABLE: Final = "self._writable(domid, path)"


def _by_id(rights: str) -> str:
    """An entry with such a right that names the id, of whatever incarnation."""
    return f"any(g.domid == domid and g.letter in '{rights}' for g in self.nodes.get(path, Node(b'', ())).grants[1:])"


OWNED, WRITER = 'node = self._node(domid, path, "o")', 'node = self._node(domid, path, "w")'
THEN: Final = """
        if grants[0].domid != node.owner and (domid or path == "/"):
            raise XsError("EPERM")
        before = node.grants
        self._count(node.owner, -1)
        node.grants = grants
        self._count(node.owner, 1)
        """
NEAREST: Final = "self.nodes[max((a for a in self.nodes if f'{path}/'.startswith(a.rstrip('/') + '/')), key=len)].grants"
STAGED: Final = {  # fault of the rules -> how it is staged
    "xenstore_rights_by_id": Staging(
        "xenstore_by_permission",
        inherits(wire.XS_READ, "r"),
        (
            (
                STORE + "read",
                'self._node(domid, path, "r").value',
                f'(self.nodes[path] if {_by_id("rb")} else self._node(domid, path, "r")).value',
            ),
        ),
    ),
    "xenstore_writes_by_id": Staging(
        "xenstore_writing_by_permission",
        inherits(wire.XS_WRITE, "w"),
        ((STORE + "write", WRITABLE, f"self.nodes[path] if {_by_id('wb')} else {WRITABLE}"),),
    ),
    "xenstore_orphans": Staging(
        "xenstore_owners_are_there",
        leaves_its_nodes,
        ((STORE + "drop_domain", 'if path in self.nodes and path != "/":', "if False:"),),
    ),
    "xenstore_mkdir_tells": Staging(
        "xenstore_answers_by_permission",
        asks_for_what_is_there,
        ((STORE + "mkdir", f"if {WRITABLE} is not None:", f"if path in self.nodes or {WRITABLE} is not None:"),),
    ),
    "xenstore_rm_tells": Staging(
        "xenstore_answers_by_permission",
        asks_for_what_is_missing,
        ((STORE + "remove", f"if {WRITABLE} is None:", f"if path not in self.nodes or {WRITABLE} is None:"),),
    ),
    "xenstore_mkdir_rings": Staging(
        "xenstore_events_by_change", rings_at_anothers, ((STORE + "mkdir", "return []", "return [self._change(path)]"),)
    ),
    "xenstore_told_to_all": Staging(
        "xenstore_watches_by_permission",
        hears_of_a_removal,
        ((STORE + "_remove", "self._change(each, exact", "self._change(each, (Grant('r', 0, 1),), exact"),),
    ),
    "xenstore_made_by_readers": Staging(
        "xenstore_nodes_come_by_permission",
        of_a_reader(wire.XS_MKDIR, "x"),
        (
            (
                STORE + "mkdir",
                f"if {WRITABLE} is not None:",
                f"if (path in self.nodes or not self.allows(domid, {NEAREST}, 'r')) and {WRITABLE} is not None:",
            ),
        ),
    ),
    "xenstore_removed_by_readers": Staging(
        "xenstore_nodes_go_by_permission",
        of_a_reader(wire.XS_RM, ""),
        (
            (
                STORE + "remove",
                f"if {WRITABLE} is None:",
                f"if not (path in self.nodes and self.allows(domid, {NEAREST}, 'r')) and {WRITABLE} is None:",
            ),
        ),
    ),
    "xenstore_opened_by_writers": Staging(
        "xenstore_permissions_by_owner",
        opens_anothers,
        ((STORE + "set_perms", f"{OWNED}{THEN}return [self._change(path, before)]", f"{WRITER}{THEN}return []"),),
    ),
}

__all__ = ["STAGED", "Town"]

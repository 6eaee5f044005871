"""Conversations of a few guests and a tool with XenStore, each about one of its rules, so that every request of it matters.

A list of permissions is set and then tried by everybody; watches lie above, below and beside what changes; a quota is
reached node by node; a guest goes and comes back. Single requests on any path (requests.py, neighbours.py) seldom meet at
such a point. Not here: what is malformed or fails (store_mistakes.py), rings (guests.py), what must be answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bulkhead.proofs.refinement.domb.guests import Guest
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.messages import home
from bulkhead.proofs.refinement.domb.workload.requests import KINDS
from bulkhead.proofs.refinement.domb.workload.store_mistakes import StoreMistakes
from bulkhead.proofs.refinement.domb.workload.tools import STORE_PORT
from bulkhead.proofs.refinement.domb.world import NODE_QUOTA

ABSENT: Final = 50  # no domain has this id
# Below a guest's home: beside each other, names of which one begins like the other, and what lies below both.
FAMILY: Final = ("data/a", "data/ab", "data/a-", "data/a/b", "data/a/bc", "data/a/b/c", "data/A", "data/ab/c")
WATCHED: Final = ("data", "data/a", "data/a", "data/ab", "data/a/b", "data/a/b/c", "control", "")
TRIES: Final = ("read", "write", "mkdir", "rm", "directory", "get_perms", "set_perms", "below", "remove below")
SPECIAL: Final = ("@releaseDomain", "@introduceDomain", "@x")


class StoreTalks(StoreMistakes):
    """Conversations about XenStore, by the hands of guests and of tools."""

    def act(self, who: Process, calm: Sequence[Guest]) -> None:
        """One conversation of guests that XenStore serves, and of the tool `who`."""
        many = (self._lists, self._watches, self._fills, self._turns_over, self.makes_mistakes)
        few = (self._lists, self._watches, self.halves, self.types, self.types, self.lists_names)
        self.rng.choice(many if self.rng.random() < 0.7 else few)(who, self.rng.sample(list(calm), len(calm)))

    def _tries(self, who: Guest, path: str, what: str) -> None:
        """A guest turns to a node, or to one below it."""
        if what == "write":
            self.asks(who, what, path, self.rng.choice((b"", b"1", b"22")))
        elif what == "set_perms":
            self.asks(who, what, path, self.rng.choice((b"b%d\0", b"n%d\0")) % who.domid)
        elif what == "below":
            self.asks(who, self.rng.choice(("mkdir", "write", "read")), f"{path}/z")
        elif what == "remove below":
            self.asks(who, "rm", f"{path}/z")
        else:
            self.asks(who, what, path)

    # Permissions.

    def _list(self, owner: int, others: Sequence[int], most: int) -> bytes:
        """A list with entries for the others: more than one for the same, for the owner, Dom0, and for nobody."""
        rng = self.rng
        entries = [(rng.choice("nnrwb"), owner)]
        twice = rng.choice((*others, *others, owner))
        pool = (*others, *others, *others, twice, twice, owner, 0, ABSENT)
        while len(entries) < most and rng.random() < 0.8:
            entries.append((rng.choice("rwbn"), rng.choice(pool)))
        if rng.random() < 0.5 and len(entries) < most:
            entries.append((rng.choice("rwbn"), entries[-1][1]))
        return b"".join(f"{letter}{who}\0".encode() for letter, who in entries)

    def _lists(self, who: Process, calm: Sequence[Guest]) -> None:
        """Permissions are set in one list, and everybody tries what they allow; what is made below inherits them."""
        rng, owner, others = self.rng, calm[0], calm[1:]
        self.text = f"permissions of d{owner.domid} are tried"
        ids = [g.domid for g in others]
        path = rng.choice((f"{home(owner.domid)}/data", f"{home(owner.domid)}/data/a", "/tool/a", "/tool/a/b"))
        by_tool = path.startswith("/tool") or rng.random() < 0.3
        if by_tool:
            self.asked(who, "write", path, b"v")
        else:
            self.asks(owner, "mkdir", path)
        if rng.random() < 0.4:  # what others watch
            for each in calm:
                self.asks(each, "watch", path, b"p\0")
        for _ in range(rng.choice((1, 1, 2))):
            if by_tool:
                self.asked(who, "set_perms", path, self._list(rng.choice((0, owner.domid, owner.domid)), ids, 7))
            else:
                self.asks(owner, "set_perms", path, self._list(owner.domid, ids, rng.choice((3, 4, 5, 5, 6))))
            for each in others:
                for what in rng.sample(TRIES, 3):
                    self._tries(each, path, what)
            self.asks(owner, "mkdir", f"{path}/y")
            self.asks(rng.choice(calm), "get_perms", rng.choice((path, f"{path}/y")))
            self.asked(who, "get_perms", path)
            self.asked(who, "directory", rng.choice(("/", "/local", "/local/domain", path)))
            if rng.random() < 0.5:
                self.asked(who, "rm", rng.choice((path, f"{path}/y", f"{path}/z")))

    # Watches.

    def _watches(self, who: Process, calm: Sequence[Guest]) -> None:
        """Watches above, below and beside nodes, of which one may read all, some or none; they come and go."""
        rng, owner, others = self.rng, calm[0], calm[1:]
        self.text = f"what d{owner.domid} does is watched"
        own = home(owner.domid)
        self.asks(owner, "rm", rng.choice(("data/a", "data/ab")))
        for each in others:
            opened = b"".join(b"%c%d\0" % (rng.choice(b"rrbn"), g.domid) for g in others[:4])
            self.asks(owner, "set_perms", "data", b"%c%d\0" % (rng.choice(b"nnr"), owner.domid) + opened)
            self.guests.asks_now(each, KINDS["reset_watches"], b"")
            for name in rng.sample(WATCHED, rng.choice((1, 1, 2, 4))):
                self.asks(
                    each,
                    "watch",
                    f"{own}/{name}" if name else rng.choice((own, "/", "/local")),
                    rng.choice((b"w\0", b"v\0")),
                )
        if rng.random() < 0.3:
            self._watches_itself(owner)
        for _ in range(rng.choice((4, 8))):
            name = rng.choice(FAMILY)
            x = rng.random()
            if x < 0.35:
                self.asks(owner, rng.choice(("write", "mkdir")), name)
            elif x < 0.6:
                self.asks(owner, "rm", rng.choice((name, "data/a", "data/a/b")))
            elif x < 0.75:
                more = b"".join(b"%c%d\0" % (rng.choice(b"rwn"), g.domid) for g in rng.sample(list(others), 1))
                self.asks(
                    owner, "set_perms", rng.choice((name, "data/a")), b"%c%d\0" % (rng.choice(b"rn"), owner.domid) + more
                )
            else:
                self.asked(who, rng.choice(("write", "mkdir", "rm")), f"{own}/{name}")

    def _watches_itself(self, owner: Guest) -> None:
        """A guest's own watches: of one node by both kinds of paths and with two tokens, and they go one by one."""
        rng = self.rng
        self.guests.asks_now(owner, KINDS["reset_watches"], b"")
        raw = [f"{home(owner.domid)}/data/a", "data/a", "data", rng.choice(SPECIAL)]
        for path in rng.sample(raw, rng.choice((2, 3, 4))):
            for token in rng.sample((b"t\0", b"u\0"), rng.choice((1, 2))):
                self.asks(owner, "watch", path, token)
        self.asks(owner, "write", rng.choice(FAMILY))
        for path in rng.sample(raw, 2):
            self.asks(owner, "unwatch", path, rng.choice((b"t\0", b"u\0")))
            self.asks(owner, "write", rng.choice(FAMILY[:4]))

    # Quotas.

    def _fills(self, who: Process, calm: Sequence[Guest]) -> None:
        """A guest makes nodes one by one, or many with one path, until it is refused; others give it some, and take them."""
        rng, owner = self.rng, calm[0]
        self.text = f"d{owner.domid} makes as many nodes as it may"
        for name in ("data/q", "data/a", "data/ab"):
            self.asks(owner, "rm", name)
        for n in range(NODE_QUOTA + 2):
            depth = rng.choice((1, 1, 1, 2, 3, NODE_QUOTA - 1))
            name = f"data/q{n}" + "".join(f"/{k}" for k in range(1, depth))
            if rng.random() < 0.2:
                self.asks(owner, "write", name, bytes(rng.choice((2047, 2048, 2049))))
            self.asks(owner, rng.choice(("mkdir", "write")), name)
            if rng.random() < 0.15:
                self.asks(owner, "rm", f"data/q{rng.randrange(n + 1)}")
        given = "/tool/q"
        self.asked(who, "mkdir", given)
        self.asked(who, "set_perms", given, b"n%d\0" % owner.domid)
        if rng.random() < 0.5:
            self.asked(who, rng.choice(("mkdir", "write")), f"{home(owner.domid)}/data/q0/t")
            self.asked(who, "set_perms", f"{home(owner.domid)}/data/q0", b"n%d\0" % rng.choice((0, calm[-1].domid)))
        self.asks(owner, "mkdir", "data/r")
        self.asked(who, rng.choice(("rm", "set_perms")), given, b"n0\0")
        self.asks(owner, "rm", f"data/q{rng.randrange(3)}")
        for name in ("data/s", "data/s/t", "data/u"):
            self.asks(owner, "mkdir", name)
        for name in self.rng.sample([f"data/q{n}" for n in range(NODE_QUOTA + 2)], 5):
            self.asks(owner, "rm", name)

    # A guest goes, and comes back.

    def _turns_over(self, who: Process, calm: Sequence[Guest]) -> None:
        """A guest and others own nodes below each other's and watch them; it is released, and introduced again."""
        rng, gone, others = self.rng, calm[0], calm[1:]
        self.text = f"d{gone.domid} goes, and comes back"
        own, friend = home(gone.domid), rng.choice(others)
        if rng.random() < 0.5:  # all may hear who comes and goes
            self.asked(who, "set_perms", "/local/domain", rng.choice((b"r0\0", b"n0\0r%d\0" % friend.domid)))
        for path in rng.sample((own, f"{own}/name", f"{own}/data"), 2):
            self.asked(who, rng.choice(("mkdir", "write")), path)
            self.asked(
                who, "set_perms", path, b"%c%d\0r%d\0" % (rng.choice(b"nr"), rng.choice((0, gone.domid)), friend.domid)
            )
        self.asks(gone, "set_perms", "data", b"n%d\0b%d\0" % (gone.domid, friend.domid))
        self.asks(friend, "mkdir", f"{own}/data/f")
        self.asks(friend, "set_perms", "data", b"n%d\0b%d\0" % (friend.domid, gone.domid))
        self.asks(gone, "mkdir", f"{home(friend.domid)}/data/g")
        self.asks(gone, "set_perms", f"{home(friend.domid)}/data/g", b"r%d\0b%d\0" % (gone.domid, friend.domid))
        self.asks(friend, "write", "data/g/h", b"3")
        for each in others:
            self.guests.asks_now(each, KINDS["reset_watches"], b"")
            paths = (own, f"{own}/data", f"{own}/data/f", f"{own}/name", "/local/domain", f"{home(friend.domid)}/data/g")
            for path in (*rng.sample(paths, 3), rng.choice(SPECIAL)):
                self.asks(each, "watch", path, b"o\0")
        self.tools.release(who, gone.domid)
        self._tries(friend, rng.choice((own, f"{own}/data", f"{home(friend.domid)}/data/g", "data")), rng.choice(TRIES))
        self.asked(who, "is_introduced", str(gone.domid))
        self.asked(who, "directory", "/local/domain")
        self.tools.introduce(who, gone.domid, STORE_PORT)
        for path in (f"{home(friend.domid)}/data", f"{own}/data", own, f"{home(friend.domid)}/data/g"):
            self._tries(gone, path, rng.choice(TRIES))
            self._tries(friend, path, rng.choice(TRIES))
        self.asked(who, "set_perms", "/local/domain", b"n0\0")


__all__ = ["StoreTalks"]

"""The tree behind XenStore: nodes with values and permissions.

Contents: paths, reading, writing, removal, permissions and quotas, as pure bookkeeping; errors are XenStore's
names. Permissions come first: a domain without the permission gets EACCES, whether the node exists or not, and
learns nothing else. A change records who may be notified (`Change`). Not here: connections, watches, messages
(xenstored.py). There are no transactions. Sources: Xen docs/misc/xenstore.txt, tools/xenstored/core.c, watch.c; the
real daemon's answers (tests/impl/test_against_xenstored.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ALLOWED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@")
PATH_MAX: Final = 2048  # behind a domain's own directory, if the path leads there
OF_A_DOMAIN: Final = re.compile(r"/local/domain/[0-9]{1,5}/")
QUOTA_NODES: Final = 1000
QUOTA_NODE_SIZE: Final = 2048
QUOTA_PERMS: Final = 5
Perm = tuple[str, int]  # r, w, b or n; and a domain


class XsError(Exception):
    """A request failed; the text is the error's name."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission: a letter, a domain id, and the incarnation of the domain that it was granted to (0: none)."""

    letter: str
    domid: int
    life: int


Grants = tuple[Grant, ...]  # the first one names the owner, and is the default for all other domains


@dataclass(slots=True)
class Node:
    """One node."""

    value: bytes
    grants: Grants

    @property
    def owner(self) -> int:
        """The owner's domain id."""
        return self.grants[0].domid


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a node. Domains that may read by one of `readable` may be notified: the permissions of the node and of its
    parent, which lists its name, before and after. `exact`: notify only watches of exactly this node."""

    path: str
    readable: tuple[Grants, ...]
    exact: bool = False


def home(domid: int) -> str:
    """A domain's own directory."""
    return f"/local/domain/{domid}"


def canonical(path: str, domid: int) -> str:
    """The absolute form of a domain's path; XsError(EINVAL)."""
    if path.startswith("@"):  # special names are not nodes
        raise XsError("EINVAL")
    whole = path if path.startswith("/") else f"{home(domid)}/{path}"
    of_a_domain = OF_A_DOMAIN.match(whole)
    limit = PATH_MAX + (of_a_domain.end() if of_a_domain else 0)
    if not path or len(whole) > limit or not set(path) <= ALLOWED or "//" in path or (path != "/" and path[-1] == "/"):
        raise XsError("EINVAL")
    return whole


def parent(path: str) -> str:
    """The parent path."""
    return path.rpartition("/")[0] or "/"


class Store:
    """All nodes, by absolute path."""

    def __init__(self, quota_nodes: int = QUOTA_NODES) -> None:
        self.quota_nodes = quota_nodes
        self.lives: dict[int, int] = {0: 1}  # the incarnation of each domain that is there
        self.count = 1  # of incarnations
        self.nodes: dict[str, Node] = {"/": Node(b"", (Grant("n", 0, 1),))}
        self.owned: dict[int, int] = {0: 1}

    # --- permission checks ---
    def _is(self, domid: int, grant: Grant) -> bool:
        return grant.domid == domid and grant.life == self.lives.get(domid, 0) != 0

    def allows(self, domid: int, grants: Grants, letter: str) -> bool:
        """May a domain read (r), write (w) or own (o) a node with these permissions?"""
        if not domid or self._is(domid, grants[0]):
            return True
        given = next((g.letter for g in grants[1:] if self._is(domid, g)), grants[0].letter)
        return letter != "o" and given in ("b", letter)

    def may_hear(self, domid: int, change: Change) -> bool:
        """May a domain be notified of a change?"""
        return any(self.allows(domid, grants, "r") for grants in change.readable)

    def _node(self, domid: int, path: str, letter: str) -> Node:
        """A node on which the domain has this right; XsError.

        Only domains with the same right on the nearest existing parent learn that a node is missing; for an owner's
        right (o), write permission there is enough.
        """
        node = self.nodes.get(path)
        above = path
        while above not in self.nodes:
            above = parent(above)
        if not self.allows(domid, self.nodes[above].grants, "w" if node is None and letter == "o" else letter):
            raise XsError("EACCES")
        if node is None:
            raise XsError("ENOENT")
        return node

    def _change(self, path: str, *more: Grants, exact: bool = False) -> Change:
        return Change(path, (self.nodes[path].grants, self.nodes[parent(path)].grants, *more), exact)

    # --- requests ---
    def read(self, domid: int, path: str) -> bytes:
        """A value."""
        return self._node(domid, path, "r").value

    def directory(self, domid: int, path: str) -> list[str]:
        """Names of the children, in order."""
        self._node(domid, path, "r")
        prefix = path.rstrip("/") + "/"
        return sorted(
            each[len(prefix) :]
            for each in self.nodes
            if each.startswith(prefix) and each != "/" and "/" not in each[len(prefix) :]
        )

    def _create(self, domid: int, path: str) -> Node:
        missing = []
        above = path
        while above not in self.nodes:
            missing.append(above)
            above = parent(above)
        base = self.nodes[above]
        if domid and self.owned.get(domid, 0) + len(missing) > self.quota_nodes:
            raise XsError("ENOSPC")
        grants = base.grants
        if domid:
            grants = (Grant(grants[0].letter, domid, self.lives[domid]), *grants[1:])
        for each in reversed(missing):
            self.nodes[each] = Node(b"", grants)
            self._count(grants[0].domid, 1)
        return self.nodes[path]

    def _count(self, owner: int, change: int) -> None:
        self.owned[owner] = self.owned.get(owner, 0) + change

    def _writable(self, domid: int, path: str) -> Node | None:
        """A node that the domain may write; None if it is missing and the domain may create it."""
        try:
            return self._node(domid, path, "w")
        except XsError as exc:
            if str(exc) != "ENOENT":
                raise
            return None

    def write(self, domid: int, path: str, value: bytes) -> list[Change]:
        """Set a value; creates missing nodes."""
        node = self._writable(domid, path)
        if domid and len(value) > QUOTA_NODE_SIZE:
            raise XsError("ENOSPC")
        if node is None:
            node = self._create(domid, path)
        node.value = value
        return [self._change(path)]

    def mkdir(self, domid: int, path: str) -> list[Change]:
        """Create a node if it is missing; an existing node does not change."""
        if self._writable(domid, path) is not None:
            return []
        self._create(domid, path)
        return [self._change(path)]

    def remove(self, domid: int, path: str) -> list[Change]:
        """Remove a node and its descendants, lowest first. Only the node itself must be writable."""
        if self._writable(domid, path) is None:
            if parent(path) not in self.nodes:
                raise XsError("ENOENT")
            return []
        if path == "/":
            raise XsError("EINVAL")
        return self._remove(path)

    def _remove(self, path: str) -> list[Change]:
        """Remove the node and its descendants, children first; for descendants, only exact watches are notified."""
        gone = sorted(
            (each for each in self.nodes if each == path or each.startswith(path + "/")),
            key=lambda each: [*each.split("/"), "\x7f"],
        )
        changes = [self._change(each, exact=each != path) for each in gone]
        for each in gone:
            self._count(self.nodes.pop(each).owner, -1)
        return changes

    def get_perms(self, domid: int, path: str) -> tuple[Perm, ...]:
        """The permissions as they were given, void ones too."""
        return tuple((g.letter, g.domid) for g in self._node(domid, path, "r").grants)

    def given(self, domid: int, perms: tuple[Perm, ...]) -> Grants:
        """Bind permissions to the existing incarnations; XsError if the owner does not exist."""
        if domid and len(perms) > QUOTA_PERMS:
            raise XsError("ENOSPC")
        grants = tuple(Grant(letter, who, self.lives.get(who, 0)) for letter, who in perms)
        if not grants[0].life:
            raise XsError("ENOENT")
        return grants

    def set_perms(self, domid: int, path: str, perms: tuple[Perm, ...]) -> list[Change]:
        """Set them; only the owner may, and cannot give the node away (Dom0 may, but for the root). What is given to a
        domain that is not there is void, and stays so when one with this id comes."""
        grants = self.given(domid, perms)
        node = self._node(domid, path, "o")
        if grants[0].domid != node.owner and (domid or path == "/"):
            raise XsError("EPERM")
        before = node.grants
        self._count(node.owner, -1)
        node.grants = grants
        self._count(node.owner, 1)
        return [self._change(path, before)]

    # --- domains ---
    def add_domain(self, domid: int) -> None:
        """A domain was introduced: new permissions for its id belong to this incarnation."""
        self.count += 1
        self.lives[domid] = self.count

    def drop_domain(self, domid: int) -> list[Change]:
        """A domain died: remove its nodes with all descendants; its permissions elsewhere become void."""
        life = self.lives.pop(domid, 0)
        out: list[Change] = []
        for path in [p for p, node in self.nodes.items() if node.grants[0].life == life and node.owner == domid]:
            if path in self.nodes and path != "/":
                out += self._remove(path)
        return out

"""The tree behind XenStore: nodes with values and permissions.

What lives here: paths, reading, writing, removal, permissions and quotas, as pure bookkeeping; errors are XenStore's
names. What does not: connections, watches, messages (xenstored.py). Transactions are not there. Sources: Xen
docs/misc/xenstore.txt, tools/xenstored/core.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALLOWED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@")
ABS_PATH_MAX: Final = 3072
REL_PATH_MAX: Final = 2048
QUOTA_NODES: Final = 1000
QUOTA_NODE_SIZE: Final = 2048
QUOTA_PERMS: Final = 5
Perm = tuple[str, int]  # r, w, b or n; and a domain


class XsError(Exception):
    """A request failed; the text is the error's name."""


@dataclass(slots=True)
class Node:
    """One node. The first permission names the owner and says what everybody else may."""

    value: bytes
    perms: tuple[Perm, ...]

    @property
    def owner(self) -> int:
        """The owner's domain id."""
        return self.perms[0][1]

    def allows(self, domid: int, letter: str) -> bool:
        """May a domain read (r) or write (w) it?"""
        if domid in (0, self.owner):
            return True
        given = next((kind for kind, who in self.perms[1:] if who == domid), self.perms[0][0])
        return given == "b" or given == letter


def home(domid: int) -> str:
    """A domain's own directory."""
    return f"/local/domain/{domid}"


def canonical(path: str, domid: int) -> str:
    """The absolute form of a path that a domain names; XsError(EINVAL)."""
    limit = ABS_PATH_MAX if path.startswith("/") else REL_PATH_MAX
    if not path or len(path) > limit or not set(path) <= ALLOWED or "//" in path or (path != "/" and path[-1] == "/"):
        raise XsError("EINVAL")
    return path if path.startswith("/") else f"{home(domid)}/{path}"


def parent(path: str) -> str:
    """The path above."""
    return path.rpartition("/")[0] or "/"


class Store:
    """All nodes, by absolute path."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {"/": Node(b"", (("n", 0),))}
        self.owned: dict[int, int] = {0: 1}

    def _node(self, domid: int, path: str, letter: str) -> Node:
        node = self.nodes.get(path)
        if node is None:
            above = path
            while above not in self.nodes:
                above = parent(above)
            # Whether something is missing is the business of those who may read what is there.
            raise XsError("ENOENT" if self.nodes[above].allows(domid, "r") else "EACCES")
        if not node.allows(domid, letter):
            raise XsError("EACCES")
        return node

    def read(self, domid: int, path: str) -> bytes:
        """A value."""
        return self._node(domid, path, "r").value

    def directory(self, domid: int, path: str) -> list[str]:
        """Names of the children."""
        self._node(domid, path, "r")
        prefix = path.rstrip("/") + "/"
        return sorted({each[len(prefix):] for each in self.nodes
                       if each.startswith(prefix) and each != "/" and "/" not in each[len(prefix):]})

    def _create(self, domid: int, path: str) -> Node:
        missing = []
        above = path
        while above not in self.nodes:
            missing.append(above)
            above = parent(above)
        base = self.nodes[above]
        if not base.allows(domid, "w"):
            raise XsError("EACCES")
        if domid and self.owned.get(domid, 0) + len(missing) > QUOTA_NODES:
            raise XsError("ENOSPC")
        perms = base.perms if not domid else ((base.perms[0][0], domid), *base.perms[1:])
        for each in reversed(missing):
            self.nodes[each] = Node(b"", perms)
            self._count(perms[0][1], 1)
        return self.nodes[path]

    def _count(self, owner: int, change: int) -> None:
        self.owned[owner] = self.owned.get(owner, 0) + change

    def write(self, domid: int, path: str, value: bytes) -> None:
        """Set a value; missing nodes are made."""
        if domid and len(value) > QUOTA_NODE_SIZE:
            raise XsError("ENOSPC")
        node = self._node(domid, path, "w") if path in self.nodes else self._create(domid, path)
        node.value = value

    def mkdir(self, domid: int, path: str) -> None:
        """Make a node if it is not there."""
        if path not in self.nodes:
            self._create(domid, path)

    def remove(self, domid: int, path: str) -> list[str]:
        """Remove a node and what is below it; the paths. The node itself must be writable, nothing else."""
        if path == "/":
            raise XsError("EINVAL")
        if path not in self.nodes:
            if parent(path) not in self.nodes:
                raise XsError("ENOENT")
            return []
        self._node(domid, path, "w")
        gone = [each for each in self.nodes if each == path or each.startswith(path + "/")]
        for each in gone:
            self._count(self.nodes.pop(each).owner, -1)
        return gone

    def get_perms(self, domid: int, path: str) -> tuple[Perm, ...]:
        """The permissions."""
        return self._node(domid, path, "r").perms

    def set_perms(self, domid: int, path: str, perms: tuple[Perm, ...]) -> None:
        """Set them; only the owner may, and cannot give the node away."""
        node = self._node(domid, path, "w")
        if domid not in (0, node.owner):
            raise XsError("EACCES")
        if not perms:
            raise XsError("EINVAL")
        if domid and perms[0][1] != node.owner:
            raise XsError("EPERM")
        if domid and len(perms) > QUOTA_PERMS:
            raise XsError("ENOSPC")
        self._count(node.owner, -1)
        node.perms = perms
        self._count(node.owner, 1)

    def drop_domain(self, domid: int) -> list[str]:
        """A domain died: its nodes go with all below them, and its permissions elsewhere; the removed paths."""
        gone = [path for path, node in self.nodes.items() if node.owner == domid]
        out: list[str] = []
        for path in gone:
            if path in self.nodes:
                out += self.remove(0, path)
        for node in self.nodes.values():
            if any(who == domid for _, who in node.perms):
                node.perms = tuple(each for each in node.perms if each[1] != domid)
        return out

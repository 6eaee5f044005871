"""The follower of XenStore: maps requests to rule steps of `dom0.xenstore`, and checks their results.

It gets each request of a guest or a tool with its answer, takes the rule steps with the same arguments, and compares the
answer, and the fired watches. messages.py decodes messages. The rules have no values of nodes and tokens of watches; they
are recorded here. Not here: rings (watched_daemons.py, taps.py), and the comparison of states (store_compare.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bulkhead.impl.tools.xenstored import Xenstored
from bulkhead.model.caller import OKAY
from bulkhead.model.ir import BOOL, Use, Var
from bulkhead.proofs.refinement.domb.book import Book, above, prefixes
from bulkhead.proofs.refinement.domb.messages import MOST, Request, asked, home
from bulkhead.proofs.refinement.domb.world import DOM0, NOBODY, NODE_QUOTA, WATCH_QUOTA
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

VALUE_MOST = 2048
PERMS_MOST = 5
Event = tuple[int, str, str]  # notified domain, path, token
GUESTS = range(2, NOBODY)


def letters(letter: str) -> tuple[bool, bool]:
    """The rights of a permission letter: read, write."""
    return letter in "rb", letter in "wb"


@dataclass
class Heard:
    """The result of a request: its error, its answer, the events that it fired, and whose rings have no room for more."""

    error: str
    answer: bytes
    events: list[Event]
    deaf: frozenset[int] = frozenset()


class StoreSide:
    """XenStore in lockstep with its rules. `who` is the process of Dom0 that makes a tool's request."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.values: dict[str, bytes] = {"/": b""}
        self.perms: dict[str, tuple[tuple[str, int], ...]] = {"/": (("n", 0),)}
        self.watches: dict[int, list[tuple[str, str]]] = {}  # for each guest: path as written, and token
        self.visits: dict[int, int] = {}  # the implementation's incarnations -> Visit
        self.refused = False  # a map or bind of the daemon's has failed in this request
        self.who = -1
        self.stored: Xenstored | None = None
        self.changed = True  # there was a request since the last full comparison
        self.steps = 0  # rule steps of XenStore
        self.wide: set[str] | None = None  # of what goes, the nodes whose end is told above them, too; None: all are
        self.times: Counter[tuple[int, int]] = Counter()  # (node, guest): how often it is told in this request
        self.exact: dict[tuple[int, int], bool] = {}  # (node, guest) that a list of permissions opened only temporarily

    # Access to the rules' state.

    def rule(self, label: str, args: dict[str, int], expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step, which must give the implementation's answer."""
        self.steps += 1
        return self.book.step(label, args, expect, fail)

    def says(self, name: str, *args: int) -> bool:
        """A definition of the rules, for these elements."""
        names = self.book.rules.system.defs[name].params
        term = Use(name, tuple(Var(p.name, p.sort) for p in names), BOOL)
        env = {p.name: a for p, a in zip(names, args, strict=True)}
        return bool(self.book.rules.caller.value(self.book.state, term, env))

    def there(self, path: str) -> bool:
        """Does the node exist in the rules?"""
        n = self.book.paths.get(path)
        return n is not None and bool(self.book.T["node.exists"][n])

    def nearest(self, path: str) -> str:
        """The node, or its lowest existing ancestor."""
        return next(p for p in reversed(prefixes(path)) if self.there(p))

    def below(self, path: str) -> list[str]:
        """Names of the children, in order."""
        start = path.rstrip("/") + "/"
        found = [p for p in self.book.paths if p != "/" and p.startswith(start) and "/" not in p[len(start) :]]
        return sorted(p[len(start) :] for p in found if self.there(p))

    # Events.

    def heard(self, who: int, domid: int, kind: int, tx: int, payload: bytes, came: Heard) -> None:
        """A request has been answered."""
        request = asked(domid, kind, tx, payload)
        self.book.forget("what was told")
        self.exact.clear()
        self.times.clear()
        self.wide = {request.path} if request.op == "rm" else None
        self.changed = True
        if request.error:
            self._expect(request, came, request.error)
        elif domid:
            self._of_guest(domid, request, came)
        else:
            self._of_tool(who, request, came)
        self._events(came.events, came.deaf)

    def ignored(self, domid: int) -> None:
        """The daemon no longer reads a guest's ring."""
        self.rule("xs_bad_index", {"d": domid})

    def _expect(self, request: Request, came: Heard, error: str) -> None:
        if came.error != error:
            raise Mismatch(f"XenStore answers {request} with {came.error or 'OK'}, not {error or 'OK'}")

    def _answer(self, request: Request, came: Heard, answer: bytes) -> None:
        if not came.error and came.answer != answer:
            raise Mismatch(f"XenStore answers {request} with {came.answer!r}, not {answer!r}")

    def _told(self, request: Request) -> bytes:
        """Check the data in the answer of a successful request."""
        if request.op == "read":
            return self.values[request.path]
        if request.op == "directory":
            return b"".join(name.encode() + b"\0" for name in self.below(request.path))
        if request.op == "get_perms":
            return b"".join(f"{letter}{who}".encode() + b"\0" for letter, who in self.perms[request.path])
        return b"OK\0"

    def _of_guest(self, d: int, request: Request, came: Heard) -> None:
        op = request.op
        if op == "get_domain_path":
            self._expect(request, came, "")
            self._answer(request, came, home(request.domid).encode() + b"\0")
        elif op in ("watch", "unwatch", "reset_watches"):
            self._watch(d, request, came)
        elif op == "set_perms":
            self._set_perms(d, request, came)
        else:
            near = self.nearest(request.path)
            n, a = self.book.node(request.path), self.book.node(near)
            args = {"d": d, "n": n, "a": a}
            full = op in ("write", "mkdir") and self._is_full(d, request)
            long = self._is_long(request) and came.error == "E2BIG"  # the rules know no limit of answers
            code = self.rule(f"xs_{op}", args, OKAY if long else came.error or OKAY, "ENOSPC" if full else None)
            if full and code == OKAY:
                raise Mismatch(f"domain {d} has more in XenStore than it may: {request}")
            if code == OKAY:
                if self._is_long(request):
                    self._expect(request, came, "E2BIG")
                self._answer(request, came, self._told(request))
                self._made(d, op, request, near)

    def _is_long(self, request: Request) -> bool:
        """Is the answer, to whoever may have it, longer than a message?"""
        return request.op == "directory" and self.there(request.path) and len(self._told(request)) > MOST

    def _is_full(self, d: int, request: Request) -> bool:
        """Does it exceed a domain's quota? Without a new node, only the value's size is checked."""
        if len(request.value) > VALUE_MOST:
            return True
        missing = sum(1 for p in prefixes(request.path) if not self.there(p))
        T = self.book.T
        owned = sum(1 for n in self.book.paths.values() if T["node.exists"][n] and T["node.owner"][n] == d)
        return missing > 0 and owned + missing > NODE_QUOTA

    def _made(self, owner: int, op: str, request: Request, near: str) -> None:
        """Effects of writing, creating and removing on state outside of the rules."""
        if op == "rm":
            for p in [p for p in self.values if p == request.path or p.startswith(request.path + "/")]:
                del self.values[p], self.perms[p]
        elif op in ("write", "mkdir"):
            first, *rest = self.perms[near]
            for p in prefixes(request.path):
                if p not in self.values:
                    self.values[p] = b""
                    self.perms[p] = ((first[0], owner) if owner else first, *rest)
            if op == "write":
                self.values[request.path] = request.value

    # Permissions.

    def _set_perms(self, d: int, request: Request, came: Heard) -> None:
        T, perms = self.book.T, request.perms
        (letter, owner), entries = perms[0], perms[1:]
        if d and len(perms) > PERMS_MOST:
            return self._expect(request, came, "ENOSPC")
        if owner != DOM0 and not (owner in GUESTS and T["store_ring.introduced"][owner]):
            if not d and owner in GUESTS and self.there(request.path):
                args = {"p": self.who, "n": self.book.node(request.path), "o": owner, "read": 0, "write": 0}
                self.rule("xs_tool_set_perms", args, "ENOENT")
            return self._expect(request, came, "ENOENT")
        if not request.path:
            return self._expect(request, came, "EINVAL")
        near = self.nearest(request.path)
        n, a = self.book.node(request.path), self.book.node(near)
        before = {e: self.says("may_hear", e, n) for e in GUESTS}
        first = {"n": n, "read": int(letters(letter)[0]), "write": int(letters(letter)[1])}
        if d:
            if n == a and owner != d and self.says("owns_node", d, n):
                return self._expect(request, came, "EPERM")
            code = self.rule("xs_set_perms", {"d": d, "a": a, **first}, came.error or OKAY)
        elif n != a:
            return self._expect(request, came, "ENOENT")
        else:
            code = self.rule("xs_tool_set_perms", {"p": self.who, "o": owner, **first}, came.error or OKAY)
        if code != OKAY:
            return None
        seen: set[int] = set()
        for letter, who in entries:  # of two entries for one domain the first counts
            if who in GUESTS and who not in seen:
                seen.add(who)
                self._entry(d, n, who, letter)
        self.perms[request.path] = perms
        for e in GUESTS:
            if entries and not before[e] and not self.says("may_hear", e, n):
                self.exact[n, e] = False
        return self._answer(request, came, b"OK\0")

    def _entry(self, d: int, n: int, e: int, letter: str) -> None:
        args = {"n": n, "e": e, "read": int(letters(letter)[0]), "write": int(letters(letter)[1])}
        if d:
            self.rule("xs_add_perm", {"d": d, **args})
        else:
            self.rule("xs_tool_add_perm", {"p": self.who, **args})

    # Watches.

    def _watch(self, d: int, request: Request, came: Heard) -> None:
        mine = self.watches.setdefault(d, [])
        if request.op == "reset_watches":
            self.rule("xs_reset_watches", {"d": d}, came.error or OKAY)
            mine.clear()
            return
        same = [w for w in mine if (self.path(d, w[0]), w[1]) == (request.path, request.token)]
        of_node = [w for w in mine if self.path(d, w[0]) == request.path]
        special = request.path[0] == "@"
        n = 0 if special else self.book.node(request.path)
        if request.op == "watch":
            full = not same and len(mine) > WATCH_QUOTA
            want = "EEXIST" if same else "E2BIG" if full else ""
            self._expect(request, came, want)
            if full:
                self.book.count("xs_watch", "E2BIG")
            elif not special and (same or not of_node):  # in the rules a guest watches a node or not
                self.rule("xs_watch", {"d": d, "n": n}, want or OKAY)
            if not want:
                mine.append((request.raw, request.token))
            return
        self._expect(request, came, "" if same else "ENOENT")
        w = self._element(d, n)
        if same:
            mine.remove(same[0])
        if not special and (not same or len(of_node) == 1):
            if not same and of_node:
                return  # another token: that watch stays
            self.rule("xs_unwatch", {"d": d, "w": w}, came.error or OKAY)

    def _element(self, d: int, n: int) -> int:
        """The element of a guest's watch of a node; an unused one if there is none."""
        T = self.book.T
        for w, on in enumerate(T["watch.on"]):
            if on and T["watch.by"][w] == d and T["watch.node"][w] == n:
                return w
        return T["watch.on"].index(0)

    def path(self, d: int, raw: str) -> str:
        """The absolute path of a watch."""
        return raw if raw[0] in "/@" else f"{home(d)}/{raw}"

    def _told_so_far(self) -> None:
        """A request may change a node more than once, and each change is told; the rules have a set of who was told."""
        size, told = NOBODY + 1, self.book.T["told"]
        if any(told):
            self.times.update((k // size, k % size) for k, on in enumerate(told) if on)
        self.book.forget("what was told")

    def _events(self, events: Sequence[Event], deaf: frozenset[int]) -> None:
        """Check that exactly the domains in the rules were notified of each node, and each of their watches fired as set,
        once for each change. A guest that takes nothing out of its ring may miss some, and everybody misses what is longer
        than a message."""
        real: dict[tuple[int, int], Counter[tuple[str, str]]] = {}
        for d, path, token in events:
            real.setdefault((self.book.node(self.path(d, path)), d), Counter())[path, token] += 1
        self._told_so_far()
        by = {n: p for p, n in self.book.paths.items()}
        rules = set(self.times) - set(self.exact)
        rules = {(n, d) for n, d in rules if (d not in deaf and self._fire(d, by[n], False)) or (n, d) in real}
        if rules != set(real):
            raise Mismatch(
                "watches fire for others than by the rules",
                {f"told[{by.get(n)}, {d}]": ((n, d) in rules, (n, d) in real) for n, d in rules ^ set(real)},
            )
        for (n, d), fired in real.items():
            once = self._fire(d, by[n], self.wide is not None and by[n] not in self.wide)
            want = Counter({event: times * self.times[n, d] for event, times in once.items()})
            if fired != want and not (d in deaf and fired <= want):
                raise Mismatch(f"domain {d} is told of {by[n]} by {fired}, and its watches are {want}")
        if self.wide is not None:
            self._lowest_first(events)

    def _lowest_first(self, events: Sequence[Event]) -> None:
        """Who hears that a node goes has heard before that those below it have gone."""
        gone: set[tuple[int, str]] = set()
        for d, raw, _ in events:
            path = self.path(d, raw)
            above = next((p for p in prefixes(path)[:-1] if (d, p) in gone), None)
            if above is not None:
                raise Mismatch(f"domain {d} is told that {path} goes after {above} has gone")
            gone.add((d, path))

    def _fire(self, d: int, path: str, exact: bool) -> Counter[tuple[str, str]]:
        """The events of a guest's watches of a node (and, if not `exact`, of those above): path and token. A watch by
        relative path hears relative paths; an event that is longer than a message is dropped."""
        own = home(d) + "/"
        watching = [
            (path if raw[0] == "/" else path.removeprefix(own), token)
            for raw, token in self.watches.get(d, ())
            if path == self.path(d, raw) or (not exact and path.startswith(self.path(d, raw).rstrip("/") + "/"))
        ]
        return Counter((told, token) for told, token in watching if len(told) + len(token) + 2 <= MOST)

    # Tools.

    def _of_tool(self, who: int, request: Request, came: Heard) -> None:
        self.who = who
        op, path = request.op, request.path
        if op in ("introduce", "release", "is_introduced", "get_domain_path"):
            getattr(self, f"_{op}")(request, came)
        elif op in ("watch", "unwatch", "reset_watches"):
            self._expect(request, came, {"watch": "ENOSYS", "unwatch": "ENOENT"}.get(op, ""))
        elif op == "set_perms":
            self._set_perms(DOM0, request, came)
        elif op in ("read", "directory", "get_perms"):
            self._expect(request, came, "E2BIG" if self._is_long(request) else "" if self.there(path) else "ENOENT")
            if self.there(path):
                self._answer(request, came, self._told(request))
        else:
            near = self.nearest(path)
            if op == "write" or (op == "mkdir" and near != path):
                self.rule(
                    "xs_tool_write", {"p": who, "n": self.book.node(path), "a": self.book.node(near)}, came.error or OKAY
                )
            elif op == "rm" and near == path:
                self.rule("xs_tool_rm", {"p": who, "n": self.book.node(path)}, came.error or OKAY)
            else:
                self._expect(request, came, "" if op == "mkdir" or self.there(above(path)) else "ENOENT")
            self._answer(request, came, b"OK\0")
            if not came.error:
                self._made(DOM0, op, request, near)

    def _get_domain_path(self, request: Request, came: Heard) -> None:
        self._expect(request, came, "")
        self._answer(request, came, home(request.domid).encode() + b"\0")

    def _is_introduced(self, request: Request, came: Heard) -> None:
        self._expect(request, came, "")
        known = request.domid == 0 or (request.domid < NOBODY and self.book.T["store_ring.introduced"][request.domid])
        self._answer(request, came, b"T\0" if known else b"F\0")

    def _introduce(self, request: Request, came: Heard) -> None:
        d = self.book.domain(request.domid)
        fail = "EINVAL" if self.refused else None
        self.refused = False
        args = {"p": self.who, "d": d, "v": self.book.free_visit()}
        if self.rule("xs_introduce", args, came.error or OKAY, fail) != OKAY:
            return
        self.watches[d] = []
        if self.stored is not None:
            self.visits[self.stored.store.lives[d]] = args["v"]
        p = {"p": self.who}
        path = home(d)
        for where, perms in ((path, (("n", 0), ("r", d))), *((f"{path}/{n}", (("n", d),)) for n in ("data", "control"))):
            self._make(where)
            self._told_so_far()
            n = self.book.node(where)
            self.rule("xs_tool_set_perms", {**p, "n": n, "o": perms[0][1], "read": 0, "write": 0})
            for letter, e in perms[1:]:
                self._entry(DOM0, n, e, letter)
            self.perms[where] = perms
            self._told_so_far()

    def _make(self, path: str) -> None:
        """Nodes that the daemon itself creates."""
        near = self.nearest(path)
        if near != path:
            self.rule("xs_tool_write", {"p": self.who, "n": self.book.node(path), "a": self.book.node(near)})
            self._made(DOM0, "mkdir", Request("mkdir", path=path), near)

    def _release(self, request: Request, came: Heard) -> None:
        self._expect(request, came, "")
        d = self.book.domain(request.domid)
        if d not in GUESTS or not self.book.T["store_ring.introduced"][d]:
            return
        owned = {p for p, n in self.book.paths.items() if self.there(p) and self.book.T["node.owner"][n] == d and p != "/"}
        self.wide = {p for p in owned | {home(d)} if not owned & set(prefixes(p)[:-1])}
        self.rule("xs_release", {"p": self.who, "d": d})
        if self.there(home(d)):
            self.rule("xs_tool_rm", {"p": self.who, "n": self.book.node(home(d))})
        for path in [p for p in self.values if not self.there(p)]:
            del self.values[path], self.perms[path]
        self.watches.pop(d, None)

    def released(self, who: int, domid: int) -> None:
        """The daemon ends by itself, and releases a guest."""
        self.who = who
        self._release(Request("release", domid=domid), Heard("", b"OK\0", [], frozenset()))

    def begins(self, stored: Xenstored, space: int) -> None:
        """The daemon, a process of Dom0, has started, and created its initial nodes."""
        self.stored, self.who = stored, space
        self._make("/local/domain")


__all__ = ["Event", "Heard", "StoreSide"]

"""A small xenstored: guests' rings, requests and answers, watches, introduction and release.

Contents: connections and messages. A guest's bytes are copied out of the ring before they are read; impossible
indices or an oversized message end its connection permanently; requests of a guest that does not take its answers
wait. There are no transactions, targets, lists in parts and control (ENOSYS). Not here: the tree (store.py). Sources: Xen
tools/xenstored/core.c, domain.c, watch.c, docs/misc/xenstore-ring.txt.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bulkhead.impl.domb.builder import XENSTORE_REF
from bulkhead.impl.libs import evtchn as ev
from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.log import Log, quiet
from bulkhead.impl.rings import pages
from bulkhead.impl.rings.pages import XS_HEADER, XS_PAYLOAD_MAX, ring_at
from bulkhead.impl.rings.ring import BadIndex, Reader, Writer
from bulkhead.impl.tools.mapping import RingMapper, RingMapping
from bulkhead.impl.tools.store import QUOTA_NODES, Change, Perm, Store, XsError, canonical, home
from bulkhead.impl.xen.abi import EEXIST, U32

QUOTA_WATCHES: Final = 128
MAX_UNSENT: Final = 1 << 16
OK: Final = b"OK\0"
OF_TOOLS: Final = frozenset(
    (
        pages.XS_CONTROL,
        pages.XS_INTRODUCE,
        pages.XS_RELEASE,
        pages.XS_IS_DOMAIN_INTRODUCED,
        pages.XS_RESUME,
        pages.XS_SET_TARGET,
    )
)
# Bytes behind the last zero.
REST_IGNORED: Final = frozenset((pages.XS_WATCH, pages.XS_UNWATCH, pages.XS_SET_PERMS, pages.XS_RESET_WATCHES))
# Not offered here, but a request: whoever may not make it, or names a transaction, gets the same answer as for others.
NOT_OFFERED: Final = frozenset(
    (pages.XS_CONTROL, pages.XS_TRANSACTION_START, pages.XS_RESUME, pages.XS_SET_TARGET, pages.XS_DIRECTORY_PART)
)


def _watched(raw: str, domid: int) -> str:
    """The target of a watch: a node, or a special event, which all may watch but only Dom0 is notified of; XsError."""
    return raw if raw.startswith("@") else canonical(raw, domid)


class Connection:
    """A guest's ring."""

    def __init__(self, os: Osdep, domid: int, mapping: RingMapping, port: int) -> None:
        self.os = os
        self.domid = domid
        self.mapping = mapping
        self.port = port
        self.watches: list[tuple[str, str]] = []
        self.ignored = False
        self.reset()

    def reset(self) -> None:
        """Reset indices, buffers and watches."""
        page = self.mapping.addr
        self.os.store(page + 2048, bytes(16))
        self.os.store(page + pages.ERROR, bytes(4))
        self.requests = Reader(self.os, ring_at(page, pages.XENSTORE_REQ))
        self.answers = Writer(self.os, ring_at(page, pages.XENSTORE_RSP))
        self.received = b""
        self.unsent = b""
        self.watches.clear()

    def ignore(self, error: int) -> None:
        """The guest broke the protocol: its connection stays closed."""
        self.ignored = True
        self.os.store(self.mapping.addr + pages.ERROR, U32.pack(error))

    def take_message(self) -> tuple[int, int, int, bytes] | None:
        """The next whole request, if there is one."""
        try:
            self.received += self.requests.take(1024)
        except BadIndex:
            self.ignore(pages.ERROR_RINGIDX)
            return None
        if len(self.received) < XS_HEADER.size:
            return None
        kind, number, tx_id, length = XS_HEADER.unpack_from(self.received)
        if length > XS_PAYLOAD_MAX:
            self.ignore(pages.ERROR_PROTO)
            return None
        end = XS_HEADER.size + length
        if len(self.received) < end:
            return None
        payload = self.received[XS_HEADER.size : end]
        self.received = self.received[end:]
        return kind, number, tx_id, payload

    def flush(self) -> bool:
        """Send as much as fits; true if anything was sent."""
        done = self.answers.put(self.unsent) if self.unsent else 0
        self.unsent = self.unsent[done:]
        return bool(done)


class Xenstored:
    """The daemon."""

    def __init__(
        self, os: Osdep, log: Log = quiet, quota_nodes: int = QUOTA_NODES, quota_watches: int = QUOTA_WATCHES
    ) -> None:
        self.os = os
        self.log = log
        self.store = Store(quota_nodes)
        self.quota_watches = quota_watches
        self.mapper = RingMapper(os)
        xce = ev.xenevtchn_open(os)
        if xce is None:
            raise OsError(os.errno)
        self.xce = xce
        self.connections: dict[int, Connection] = {}
        self.store.mkdir(0, "/local/domain")

    # --- domains ---
    def introduce(self, domid: int, mfn: int, port: int) -> None:
        """Connect a domain: map its ring, bind its port, create its directory. On OSError nothing is left allocated."""
        if domid in self.connections:
            raise OsError(EEXIST)
        mapping = self.mapper.map(domid, XENSTORE_REF, mfn)
        local = ev.xenevtchn_bind_interdomain(self.xce, domid, port)
        if local < 0:
            error = self.os.errno
            mapping.unmap()
            raise OsError(error)
        self.connections[domid] = Connection(self.os, domid, mapping, local)
        self.store.add_domain(domid)
        self._fire(self.store.mkdir(0, home(domid)))
        self._fire(self.store.set_perms(0, home(domid), (("n", 0), ("r", domid))))
        for name in ("data", "control"):
            self._fire(self.store.mkdir(0, f"{home(domid)}/{name}"))
            self._fire(self.store.set_perms(0, f"{home(domid)}/{name}", (("n", domid),)))
        self.log("xenstored", "Xen", f"map the XenStore ring of domain {domid} by {mapping.by}")

    def release(self, domid: int) -> None:
        """Release a dead domain: unmap, unbind, remove its nodes."""
        connection = self.connections.pop(domid, None)
        if connection is None:
            return
        ev.xenevtchn_unbind(self.xce, connection.port)
        connection.mapping.unmap()
        self._fire(self.store.drop_domain(domid))
        with suppress(XsError):  # tools have already removed it
            self._fire(self.store.remove(0, home(domid)))  # nodes that tools have created

    # --- running ---
    def step(self) -> bool:
        """Serve every ring without waiting; true if there was anything to do."""
        while (port := ev.xenevtchn_pending(self.xce)) > 0:
            ev.xenevtchn_unmask(self.xce, port)
        busy = False
        for connection in list(self.connections.values()):
            busy |= self._serve(connection)
        return busy

    def _serve(self, connection: Connection) -> bool:
        busy, before = False, connection.requests.cons
        while not connection.ignored and len(connection.unsent) < MAX_UNSENT:
            message = connection.take_message()
            if message is None:
                break
            busy = True
            kind, number, tx_id, payload = message
            try:
                answer = self.request(connection.domid, kind, tx_id, payload)
            except XsError as exc:
                kind, answer = pages.XS_ERROR, str(exc).encode() + b"\0"
            connection.unsent += XS_HEADER.pack(kind, number, tx_id, len(answer)) + answer
            if kind == pages.XS_WATCH:
                path, token = payload.split(b"\0")[:2]
                self._event(connection, path.decode("latin-1"), token.decode("latin-1"))
        if not connection.ignored and connection.flush():
            busy = True
        # Also a part of a request leaves space in the ring, for which the guest may wait.
        busy |= connection.requests.cons != before
        if busy:
            ev.xenevtchn_notify(self.xce, connection.port)
        return busy

    def close(self) -> None:
        """Stop the daemon."""
        for domid in list(self.connections):
            self.release(domid)
        ev.xenevtchn_close(self.xce)

    # --- requests ---
    def request(self, domid: int, kind: int, tx_id: int, payload: bytes) -> bytes:
        """One request of a domain, or of a tool as domain 0; XsError."""
        handler = self._handlers().get(kind)
        if handler is None and kind not in NOT_OFFERED:
            raise XsError("ENOSYS")
        if domid and kind in OF_TOOLS:
            raise XsError("EACCES")
        if tx_id and kind not in (pages.XS_WATCH, pages.XS_UNWATCH):
            raise XsError("ENOENT")
        if handler is None:
            raise XsError("ENOSYS")
        if len(payload) > XS_PAYLOAD_MAX:
            raise XsError("E2BIG")
        words = payload.split(b"\0")
        if kind == pages.XS_WRITE:  # its value may have any bytes
            return handler(domid, [words[0], payload[len(words[0]) + 1 :]] if len(words) > 1 else words)
        if words[-1] and kind not in REST_IGNORED:
            raise XsError("EINVAL")
        return handler(domid, words[:-1])

    def _handlers(self) -> dict[int, Callable[[int, list[bytes]], bytes]]:
        return {
            pages.XS_READ: self._read,
            pages.XS_WRITE: self._write,
            pages.XS_DIRECTORY: self._directory,
            pages.XS_MKDIR: self._mkdir,
            pages.XS_RM: self._rm,
            pages.XS_GET_PERMS: self._get_perms,
            pages.XS_SET_PERMS: self._set_perms,
            pages.XS_WATCH: self._watch,
            pages.XS_UNWATCH: self._unwatch,
            pages.XS_GET_DOMAIN_PATH: self._domain_path,
            pages.XS_RESET_WATCHES: self._reset_watches,
            pages.XS_INTRODUCE: self._introduce,
            pages.XS_RELEASE: self._release,
            pages.XS_IS_DOMAIN_INTRODUCED: self._introduced,
            pages.XS_TRANSACTION_END: self._transaction_end,
        }

    @staticmethod
    def _path(raw: bytes, domid: int) -> str:
        return canonical(raw.decode("ascii", "replace"), domid)

    @staticmethod
    def _words(words: list[bytes], count: int) -> list[bytes]:
        if len(words) != count:
            raise XsError("EINVAL")
        return words

    @staticmethod
    def _number(raw: bytes, limit: int = 0x7FF0) -> int:
        if not raw.isdigit() or len(raw) > 10 or int(raw) >= limit:
            raise XsError("EINVAL")
        return int(raw)

    def _read(self, domid: int, words: list[bytes]) -> bytes:
        return self.store.read(domid, self._path(self._words(words, 1)[0], domid))

    def _write(self, domid: int, words: list[bytes]) -> bytes:
        raw, value = self._words(words, 2)
        self._fire(self.store.write(domid, self._path(raw, domid), value))
        return OK

    def _directory(self, domid: int, words: list[bytes]) -> bytes:
        names = self.store.directory(domid, self._path(self._words(words, 1)[0], domid))
        out = b"".join(name.encode() + b"\0" for name in names)
        if len(out) > XS_PAYLOAD_MAX:
            raise XsError("E2BIG")
        return out

    def _mkdir(self, domid: int, words: list[bytes]) -> bytes:
        path = self._path(self._words(words, 1)[0], domid)
        self._fire(self.store.mkdir(domid, path))
        return OK

    def _rm(self, domid: int, words: list[bytes]) -> bytes:
        path = self._path(self._words(words, 1)[0], domid)
        self._fire(self.store.remove(domid, path))
        return OK

    def _get_perms(self, domid: int, words: list[bytes]) -> bytes:
        perms = self.store.get_perms(domid, self._path(self._words(words, 1)[0], domid))
        return b"".join(f"{letter}{who}".encode() + b"\0" for letter, who in perms)

    def _set_perms(self, domid: int, words: list[bytes]) -> bytes:
        if len(words) < 2:
            raise XsError("EINVAL")
        perms: list[Perm] = []
        for word in words[1:]:
            if word[:1] not in (b"r", b"w", b"b", b"n"):
                raise XsError("EINVAL")
            perms.append((word[:1].decode(), self._number(word[1:], 1 << 32)))
        self.store.given(domid, tuple(perms))  # the check of a missing owner comes before all checks of the node
        self._fire(self.store.set_perms(domid, self._path(words[0], domid), tuple(perms)))
        return OK

    def _domain_path(self, domid: int, words: list[bytes]) -> bytes:
        return home(self._number(self._words(words, 1)[0])).encode() + b"\0"

    def _transaction_end(self, _domid: int, words: list[bytes]) -> bytes:
        if self._words(words, 1)[0] not in (b"T", b"F"):
            raise XsError("EINVAL")
        raise XsError("ENOENT")  # nobody can begin one

    # --- requests of tools ---
    def _introduce(self, _domid: int, words: list[bytes]) -> bytes:
        who, mfn, port = self._words(words, 3)
        try:
            self.introduce(self._number(who), self._number(mfn, 1 << 40), self._number(port, 1 << 32))
        except OSError as exc:
            raise XsError("EEXIST" if exc.errno == EEXIST else "EINVAL") from exc
        return OK

    def _release(self, _domid: int, words: list[bytes]) -> bytes:
        self.release(self._number(self._words(words, 1)[0]))
        return OK

    def _introduced(self, _domid: int, words: list[bytes]) -> bytes:
        who = self._number(self._words(words, 1)[0])
        return b"T\0" if who == 0 or who in self.connections else b"F\0"

    # --- watches (of guests; tools poll instead) ---
    def _watch(self, domid: int, words: list[bytes]) -> bytes:
        connection = self.connections.get(domid)
        raw, token = (each.decode("latin-1") for each in self._words(words, 2))
        path = _watched(raw, domid)
        if connection is None:
            raise XsError("ENOSYS")
        if any((_watched(other, domid), t) == (path, token) for other, t in connection.watches):
            raise XsError("EEXIST")
        if len(connection.watches) > self.quota_watches:  # one more than the quota, as the real daemon
            raise XsError("E2BIG")
        connection.watches.append((raw, token))
        return OK

    def _unwatch(self, domid: int, words: list[bytes]) -> bytes:
        connection = self.connections.get(domid)
        raw, token = (each.decode("latin-1") for each in self._words(words, 2))
        if connection is None:
            raise XsError("ENOENT")
        for watch in connection.watches:
            with suppress(XsError):  # an invalid path has no watches
                if (_watched(watch[0], domid), watch[1]) == (_watched(raw, domid), token):
                    connection.watches.remove(watch)
                    return OK
        raise XsError("ENOENT")

    def _reset_watches(self, domid: int, words: list[bytes]) -> bytes:
        connection = self.connections.get(domid)
        if connection is not None:
            connection.watches.clear()
        return OK

    def _fire(self, changes: list[Change]) -> None:
        """Notify the watches of a change, if their domain may be notified."""
        for change in changes:
            for connection in self.connections.values():
                watched = [w for w in connection.watches if self._hears(connection, w[0], change)]
                if not watched or not self.store.may_hear(connection.domid, change):
                    continue
                for raw, token in watched:
                    # A watch by relative path gets relative paths.
                    own = home(connection.domid) + "/"
                    self._event(connection, change.path if raw[:1] == "/" else change.path.removeprefix(own), token)

    @staticmethod
    def _hears(connection: Connection, raw: str, change: Change) -> bool:
        watched = _watched(raw, connection.domid)
        return change.path == watched or (not change.exact and change.path.startswith(watched.rstrip("/") + "/"))

    @staticmethod
    def _event(connection: Connection, path: str, token: str) -> None:
        """Queue an event; one that is longer than a message is dropped, as the real daemon does (XSA-324)."""
        body = f"{path}\0{token}\0".encode("latin-1")
        if len(body) <= XS_PAYLOAD_MAX and len(connection.unsent) < MAX_UNSENT and not connection.ignored:
            connection.unsent += XS_HEADER.pack(pages.XS_WATCH_EVENT, 0, 0, len(body)) + body

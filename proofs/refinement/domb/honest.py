"""A call of an honest tool: the implementation's own, with its file proxy; while it waits for DomB, others act.

Not here: hostile tools, whose calls are single messages and stores (operations.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.tools.services import ToolError, find
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.domb.client_side import ClientEnd
from bulkhead.proofs.refinement.domb.files import PAGES
from bulkhead.proofs.refinement.domb.machine import WAIT, Killed, Machine, Process, error_name
from bulkhead.proofs.refinement.domb.spoken import heard
from bulkhead.proofs.refinement.domb.watched_tools import WatchedRemote, WatchedXl
from bulkhead.proofs.refinement.domb.world import NOBODY
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

WAITS: Final = 160  # of a tool that has given up once, and asks again
TRIES: Final = 12  # of a patient one, to get the channel


def use_tool(m: Machine, who: Process, a: Mapping[str, Any]) -> Answer:
    """Have a guest built, and do more with it: {xl, name, kernel, ramdisk, pages, cmdline, then, patient, waits}; xl tells
    the daemons. A patient tool waits while another one has the channel, and asks again after it has given up."""
    offer = m.offer()
    if who.chan is not None or not m.up or offer is None or any(each.busy for each in m.processes.values()):
        return NOT_DONE
    who.busy = True
    left = [a["waits"]]

    def asks_again() -> bool:
        again = bool(a["patient"]) and left[0] < 0 and not who.killed
        left[0] = max(left[0], WAITS if again else -1)
        return again

    def pump() -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        m.moment(WAIT, str(who.space))
        m.ear.who = who.space
        if who.killed:
            raise Killed
        return m.up and left[0] > 0

    tool: WatchedRemote | None = None
    code = OKAY
    try:
        tool = _connected(m, who, pump, TRIES if a["patient"] else 1)
        who.end = ClientEnd(who.os, tool.chan)
        tool.asks_again = asks_again
        code = _calls(m, tool, a)
    except ToolError as error:
        code = error_name(fits(error).errno)
    except Killed:
        code = "killed"
    who.busy = who.waiting = False
    m.ear.who = who.space
    if who.killed:
        m.kill(who)
    elif tool is not None:
        with who.leaves():
            tool.close()
    who.end = None
    return Answer(code)


def builds_again(m: Machine, who: Process, a: Mapping[str, Any]) -> Answer:
    """Alone with DomB, which nothing disturbs any more, an honest tool has the smallest guest built, stopped, started and
    destroyed: {xl}. A system that refuses everything agrees with rules that say what may not be."""
    if not m.up:
        return NOT_DONE
    wanted = {"name": "last", "kernel": "kernel0", "ramdisk": "", "pages": min(PAGES), "cmdline": ""}
    then = ("pause", "unpause", "destroy")
    answer = use_tool(m, who, {**wanted, "xl": a["xl"], "then": then, "patient": True, "waits": WAITS})
    if answer.code != OKAY:
        raise Mismatch(f"nobody else is there, and an honest tool that wants a small guest is told {answer.code}")
    return answer


def fits(error: ToolError) -> ToolError:
    """A tool's error has an errno, that of the call which has failed (or what is in the ring is garbage), and a text for
    people."""
    cause = error.__cause__
    if isinstance(cause, OSError) and "garbage" not in str(error) and error.errno != cause.errno:
        raise Mismatch(f"a tool's call fails with {cause.errno}, and the tool says {error}")
    if not isinstance(error.errno, int) or not 0 < error.errno < 4096 or not re.match(r"[a-z]+[ :]", str(error)):
        raise Mismatch(f"a tool fails with the error {error.errno!r} and the text {error}")
    return error


def _connected(m: Machine, who: Process, pump: Callable[[], bool], tries: int) -> WatchedRemote:
    """The tool's end of the channel, which DomB offers anew after each connection; ToolError if it is taken to the end."""
    error = ToolError("connecting to DomB", abi.EAGAIN)
    for _ in range(tries):
        who.waiting = False
        offer = m.offer()
        if offer is not None:
            try:
                service = find(who.os, who.proxy, m.offer, pump, lambda step, what: None, heard, WatchedRemote)
                if not isinstance(service, WatchedRemote):
                    raise Mismatch("a tool of Dom0 builds itself, and does not turn to DomB")
                return service
            except ToolError as exc:
                error = fits(exc)
        who.waiting = True
        if tries == 1 or not pump():
            break
    raise error


def _calls(m: Machine, tool: WatchedRemote, a: Mapping[str, Any]) -> str:
    wanted = p.CreateRequest(a["kernel"], a["ramdisk"], a["pages"], a["cmdline"])
    refuses(tool, abi.EINVAL, lambda: tool.create(p.CreateRequest("x" * (p.PATH_MAX + 1))))
    refuses(tool, abi.EINVAL, lambda: tool.create(p.CreateRequest(a["kernel"], "", 1 << 32)))
    refuses(tool, abi.EINVAL, lambda: tool.destroy(1 << 16))
    if not a["xl"]:
        domid = tool.create(wanted).domid
        _exists(m, domid)
        for call in a["then"]:
            getattr(tool, call)(domid)
        return OKAY
    if m.daemons is None or m.daemons.stored is None or m.daemons.consoled is None:
        return NOT_DONE.code
    xl = WatchedXl(tool, m.daemons.stored, m.daemons.consoled)
    for call in (xl.pause, xl.unpause, xl.destroy):
        refuses(tool, abi.ESRCH, partial(call, NOBODY))
    domid = xl.create(a["name"], wanted)
    for call in a["then"]:
        getattr(xl, call)(domid)
        if call == "destroy":
            refuses(tool, abi.ESRCH, partial(xl.pause, domid))
    return OKAY


def refuses(tool: WatchedRemote, errno: int, call: Callable[[], object]) -> None:
    """The tool must refuse a call by itself, with this error, and ask DomB nothing."""
    sent = len(tool.watched.numbers)
    try:
        call()
    except ToolError as error:
        if fits(error).errno != errno or len(tool.watched.numbers) != sent:
            raise Mismatch(f"a tool says {error} to a call that it must refuse with the error {errno}, unasked") from error
        return
    raise Mismatch(f"a tool accepts a call that it must refuse with the error {errno}")


def _exists(m: Machine, domid: int) -> None:
    """The guest that a tool was told of was built, by the rules; when others act, it may have been destroyed meanwhile."""
    if m.book is None or not m.up or len(m.processes) > 1 or any(b.abandoned for b in m.service.guests.values()):
        return
    if domid >= NOBODY or not m.book.T["built.known"][domid]:
        raise Mismatch(f"xl was told of domain {domid}, which nobody has built")


__all__ = ["builds_again", "use_tool"]

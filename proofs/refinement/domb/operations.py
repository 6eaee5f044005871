"""The calls of DomB's campaigns by name: one row per operation, with the function that makes it on a machine.

Here are those of Dom0's processes and daemons, of DomB, and of nobody. Not here: which calls are made (workload/), guests'
actions (guests.py), calls of honest tools (honest.py), and what is compared (target.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs import gnttab as gt
from bulkhead.impl.libs.vchan import Offer, client_init
from bulkhead.impl.tools.store import XsError
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.domb.client_side import ClientEnd, registered
from bulkhead.proofs.refinement.domb.daemons import Daemons
from bulkhead.proofs.refinement.domb.honest import builds_again, use_tool
from bulkhead.proofs.refinement.domb.machine import FAIL, OF_DOMB, STEP, Machine, Process, error_name
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

Arguments = Mapping[str, Any]
DONE: Final = Answer(OKAY)
OF_A_PROCESS: Final = ("Dom0's handles", "Dom0's ports", "Dom0's held ports")  # what it has besides its own pages


# Processes and their channels.


def connect(m: Machine, who: Process, a: Arguments) -> Answer:
    """Connect to a channel: {dom, ref, port} of the offer."""
    if who.chan is not None:
        return NOT_DONE
    before = m.counts()
    try:
        who.chan = client_init(who.os, Offer(a["dom"], a["ref"], a["port"]))
    except OSError as error:
        kept = {what: m.counts()[what] - before[what] for what in OF_A_PROCESS if m.counts()[what] != before[what]}
        if kept:
            raise Mismatch(f"a client that could not connect keeps {kept}") from error
        return Answer(error_name(error.errno))
    who.pipe = p.Pipe(who.chan)
    who.end, who.peer = ClientEnd(who.os, who.chan), a["dom"]
    return DONE


def disconnect(m: Machine, who: Process, a: Arguments) -> Answer:
    """Close the channel."""
    if who.chan is None:
        return NOT_DONE
    with who.leaves():
        who.chan.close()
    who.chan = who.pipe = who.question = who.end = None
    return DONE


def send(m: Machine, who: Process, a: Arguments) -> Answer:
    """Put a message into the ring: {op, number, status, body}."""
    return _send(who, p.Message(a["op"], a["number"], a["status"], bytes.fromhex(a["body"])))


def _send(who: Process, message: p.Message) -> Answer:
    if who.pipe is None:
        return NOT_DONE
    try:
        return Answer(OKAY if who.pipe.send(message) else "EAGAIN")
    except OSError as error:
        return Answer(error_name(error.errno))


def send_bytes(m: Machine, who: Process, a: Arguments) -> Answer:
    """Put bytes into the ring that need not be a message: {bytes}."""
    if who.chan is None:
        return NOT_DONE
    try:
        return Answer(OKAY if who.chan.send(bytes.fromhex(a["bytes"])) else "EAGAIN")
    except OSError as error:
        return Answer(error_name(error.errno))


def receive(m: Machine, who: Process, a: Arguments) -> Answer:
    """Take DomB's next message; the file proxy handles a question, and its answer waits for `reply`. The answer has the
    message's kind and number, and the length of what the proxy says."""
    who.question = None
    if who.pipe is None:
        return NOT_DONE
    try:
        message = who.pipe.receive()
    except p.ProtocolError:
        return Answer("EPROTO")
    except OSError as error:
        return Answer(error_name(error.errno))
    if message is None:
        return Answer("EAGAIN")
    if message.op & p.REPLY:
        return Answer(OKAY, [message.op, message.number, message.status])
    who.question = who.proxy.handle(message.op, message.body)
    status, body = who.question
    return Answer(OKAY, [message.op, message.number, status, len(body)])


def reply(m: Machine, who: Process, a: Arguments) -> Answer:
    """Send what the proxy says, or something else: {op, number, status, body}; parts of the body are bytes, or a range of
    what the proxy says."""
    if who.question is None:
        return NOT_DONE
    said = who.question[1]
    parts = (bytes.fromhex(part) if isinstance(part, str) else said[part[0] : part[1]] for part in a["body"])
    return _send(who, p.Message(a["op"], a["number"], a["status"], b"".join(parts)))


def ask_proxy(m: Machine, who: Process, a: Arguments) -> Answer:
    """Somebody asks the process's file proxy, as DomB may: {op, body}. The answer has its status and a length."""
    status, body = who.proxy.handle(a["op"], bytes.fromhex(a["body"]))
    return Answer(OKAY, [status, len(body)])


def map_grant(m: Machine, who: Process, a: Arguments) -> Answer:
    """Map a page by grant: {dom, ref, prot}."""
    if who.xgt is None:
        who.xgt = gt.xengnttab_open(who.os)
    before = registered(who.os)
    addr = None if who.xgt is None else gt.xengnttab_map_grant_ref(who.xgt, a["dom"], a["ref"], a["prot"])
    if registered(who.os) != before + (addr is not None):
        raise Mismatch(f"a process that mapped {addr} has {registered(who.os)} mappings registered, and had {before}")
    if addr is None:
        return Answer(error_name(who.os.errno))
    who.mapped.append(addr)
    return Answer(OKAY, addr)


def unmap_grant(m: Machine, who: Process, a: Arguments) -> Answer:
    """Unmap such a page: {addr}."""
    if a["addr"] not in who.mapped or who.xgt is None:
        return NOT_DONE
    who.mapped.remove(a["addr"])
    before = registered(who.os)
    gt.xengnttab_unmap(who.xgt, a["addr"], 1)
    if registered(who.os) != before - 1:
        raise Mismatch("a process has unmapped a grant, which is still registered")
    return DONE


def poke(m: Machine, who: Process, a: Arguments) -> Answer:
    """Write to memory: {addr, bytes}."""
    try:
        who.os.store(a["addr"], bytes.fromhex(a["bytes"]))
    except OSError as error:
        return Answer(error_name(error.errno))
    return DONE


def kill(m: Machine, who: Process, a: Arguments) -> Answer:
    """kill -9; a process in a call of a tool ends when that call goes on."""
    if who.busy:
        who.killed = True
    else:
        m.kill(who)
    return DONE


# The daemons, and requests to them.


def serve(m: Machine, daemons: Daemons, space: int) -> Answer:
    """A daemon serves all its rings."""
    daemon = daemons.of(space)
    return NOT_DONE if daemon is None else Answer(OKAY, daemons.serve(daemon))


def kill_daemon(m: Machine, daemons: Daemons, space: int) -> Answer:
    """kill -9 of a daemon."""
    daemon = daemons.of(space)
    if daemon is None:
        return NOT_DONE
    daemons.kill(daemon)
    return DONE


def stop_daemon(m: Machine, daemons: Daemons, space: int) -> Answer:
    """A daemon ends by itself, and leaves nothing to the kernel to take back."""
    daemon = daemons.of(space)
    if daemon is None:
        return NOT_DONE
    m.ear.who = space
    device, driver = daemon.xce.fd, daemon.osdep.driver
    daemon.close()
    if isinstance(driver, Syscalls) and device in driver.process.files:
        raise Mismatch("a daemon that has stopped has its event channels still open")
    left = m.counts()
    daemons.kill(daemon)
    kept = {what: left[what] - m.counts()[what] for what in OF_A_PROCESS if left[what] != m.counts()[what]}
    if kept:
        raise Mismatch(f"a daemon that has stopped still has something: {kept}")
    return DONE


def ask_xenstored(m: Machine, who: Process, a: Arguments) -> Answer:
    """A request of a process, as domain 0: {type, payload}."""
    if m.daemons is None or m.daemons.stored is None:
        return NOT_DONE
    try:
        return Answer(OKAY, m.daemons.stored.request(0, a["type"], 0, bytes.fromhex(a["payload"])).hex())
    except XsError as error:
        return Answer(str(error))


def console_add(m: Machine, who: Process, a: Arguments) -> Answer:
    """A guest's console is connected: {dom, mfn, port}."""
    if m.daemons is None or m.daemons.consoled is None:
        return NOT_DONE
    try:
        m.daemons.consoled.add(a["dom"], a["mfn"], a["port"])
    except OSError as error:
        return Answer(error_name(error.errno))
    return DONE


def console_remove(m: Machine, who: Process, a: Arguments) -> Answer:
    """A guest's console is disconnected: {dom}; the answer has the length of its output."""
    if m.daemons is None or m.daemons.consoled is None:
        return NOT_DONE
    return Answer(OKAY, len(m.daemons.consoled.remove(a["dom"])))


def console_type(m: Machine, who: Process, a: Arguments) -> Answer:
    """Input for a guest's console: {dom, bytes}."""
    if m.daemons is None or m.daemons.consoled is None:
        return NOT_DONE
    try:
        m.daemons.consoled.type(a["dom"], bytes.fromhex(a["bytes"]))
    except OSError as error:
        return Answer(error_name(error.errno))
    return DONE


# DomB.


def step(m: Machine, a: Arguments) -> Answer:
    """DomB takes a step. The answer has its guests, who of them were told or abandoned, and what it has to do."""
    if not m.up or m.in_domb:
        return NOT_DONE
    m.domb()
    guests = [[domid, built.told, built.abandoned] for domid, built in sorted(m.service.guests.items())]
    return Answer(OKAY, [m.up, guests, m.service.job is not None, m.service.failing is not None, len(m.service.outbox)])


def fail(m: Machine, a: Arguments) -> Answer:
    """At a moment of DomB's: its call, or its step of a build, fails with {errno}."""
    if m.now is None or m.now.kind not in (FAIL, STEP):
        return NOT_DONE
    m.errno = a["errno"]
    return DONE


def crash(m: Machine, a: Arguments) -> Answer:
    """At a moment of DomB's: its vCPU stops."""
    if m.now is None or m.now.kind not in OF_DOMB:
        return NOT_DONE
    m.crashing = True
    return DONE


def hang_up(m: Machine, a: Arguments) -> Answer:
    """DomB ends its connection, and offers no other."""
    if not m.up or m.in_domb:
        return NOT_DONE
    m.service.hang_up()
    return DONE


# Nobody's calls.


def moment(m: Machine, a: Arguments) -> Answer:
    """The calls that follow were made at the moment {number} of the call around them."""
    return DONE if m.now is not None and m.now.number == a["number"] else NOT_DONE


def spawn(m: Machine, a: Arguments) -> Answer:
    """A new process of Dom0; the answer has its space."""
    if len(m.processes) + 3 > m.size.processes:
        return NOT_DONE  # the world has no more
    return Answer(OKAY, m.spawn().space)


def start_xenconsoled(m: Machine, a: Arguments) -> Answer:
    """The console's daemon starts again."""
    if m.daemons is None or m.daemons.consoled is not None:
        return NOT_DONE
    m.daemons.start_console()
    return DONE


def claims(m: Machine, a: Arguments) -> Answer:
    """All claims about states are evaluated."""
    if m.book is not None:
        m.book.check_claims()
    return DONE


def daemons_keep_nothing(m: Machine, a: Arguments) -> Answer:
    """When no guest is connected, and nodes of tools are removed, the daemons keep nothing."""
    kept, there = ("Dom0's handles", "Dom0's ports"), m.counts()
    if not m.processes and any(there[what] != m.before[what] for what in kept):
        raise Mismatch(f"daemons that serve nobody keep {[f'{what}: {there[what]}' for what in kept]}")
    stored = None if m.daemons is None else m.daemons.stored
    for daemon in () if m.daemons is None else (m.daemons.stored, m.daemons.consoled):
        if daemon is not None and registered(daemon.osdep):
            raise Mismatch(f"a daemon that serves nobody has {registered(daemon.osdep)} mappings registered")
    if stored is not None:
        left = {name: n for name, n in (("nodes", len(stored.store.nodes)), ("incarnations", len(stored.store.lives)))}
        left |= {f"nodes of domain {d}": n for d, n in stored.store.owned.items() if d and n}
        left |= {"connections": len(stored.connections)}
        if left != {"nodes": 3, "incarnations": 1, "connections": 0}:
            raise Mismatch(f"at the end XenStore keeps {left}")
    return DONE


def end(m: Machine, a: Arguments) -> Answer:
    """Everybody has left and all guests are destroyed: nothing may be left."""
    if m.up:
        m.rig.domb.retry_late()
        m.users.end()
    m.compare(now=True)
    claims(m, a)
    after = m.counts()
    left = {k: after[k] - v for k, v in m.before.items() if after[k] != v}
    if left and m.up:
        raise Mismatch(f"at the end there is more or less than before: {left}")
    return DONE


OF_PROCESSES: Final[dict[str, Callable[[Machine, Process, Arguments], Answer]]] = {
    "connect": connect,
    "disconnect": disconnect,
    "send": send,
    "send_bytes": send_bytes,
    "receive": receive,
    "reply": reply,
    "ask_proxy": ask_proxy,
    "use_tool": use_tool,
    "builds_again": builds_again,
    "map_grant": map_grant,
    "unmap_grant": unmap_grant,
    "poke": poke,
    "kill": kill,
    "ask_xenstored": ask_xenstored,
    "console_add": console_add,
    "console_remove": console_remove,
    "console_type": console_type,
}
OF_DAEMONS: Final[dict[str, Callable[[Machine, Daemons, int], Answer]]] = {
    "serve": serve,
    "kill": kill_daemon,
    "stop": stop_daemon,
}
OF_DOMB_ITSELF: Final[dict[str, Callable[[Machine, Arguments], Answer]]] = {
    "step": step,
    "fail": fail,
    "crash": crash,
    "hang_up": hang_up,
}
OF_NOBODY: Final[dict[str, Callable[[Machine, Arguments], Answer]]] = {
    "moment": moment,
    "spawn": spawn,
    "start_xenconsoled": start_xenconsoled,
    "claims": claims,
    "daemons_keep_nothing": daemons_keep_nothing,
    "end": end,
}

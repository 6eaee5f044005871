"""The implementation's own handlers on symbolic arguments and tables: each path ends as the rules say.

`prove_handlers` runs the functions of impl/xen along all their paths. On each path the status must be the code of the first
check of the rules that fails, and the state the one after the rules' step (`symbolic_compare.py` says what is compared);
the conditions of the paths must cover all inputs. Guests rewrite their grant tables at every point where a handler can
be interrupted. Stand-ins are listed in the README.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import z3

from impl.xen import abi, grant_entries, grant_map, grant_unmap, lifecycle
from impl.xen.frames import PGT_WRITABLE
from model import loader
from model.ir import System, Use, Var
from proofs.refinement.symbolic import WIDTH, Engine, Expr, Int, Unsupported, number
from proofs.refinement.symbolic_compare import Claims, Holders, arbitrary, classes, same_state
from proofs.refinement.symbolic_machine import LAYOUTS, Machine, Table, base, small
from proofs.refinement.symbolic_rules import RuleState, bits, take

CODES = {value: "GNTST_" + name[6:].lower() for name, value in vars(abi).items() if name.startswith("GNTST_")}
ROUNDS = 1  # of the compare-and-swap of a version 1 entry
THIS = z3.BitVec("this", WIDTH)


@dataclass(frozen=True)
class HandlerReport:
    """What came of one handler. `symbolic` says what is arbitrary and what has a stated size."""

    name: str
    paths: int
    proved: bool
    findings: tuple[str, ...]
    seconds: float
    symbolic: str


@functools.cache
def rules() -> System:
    """The system whose steps the handlers are held against."""
    return loader.load("monolithic")


class Path:
    """One run of a handler: its machine, and the claims collected on the way."""

    def __init__(self) -> None:
        self.engine = Engine.running()
        self.machine = Machine(rules())
        self.findings: list[str] = []
        self.engine.assume(arbitrary())

    def prove(self, where: str, claims: Claims) -> None:
        """Every claim on all inputs of the path."""
        for name, claim in claims:
            claim = z3.simplify(claim)
            if not z3.is_true(claim) and not self.engine.proves(claim):
                self.findings.append(f"{where}: {name}")

    def argument(self, name: str, width: int) -> Int:
        """An argument of the call: any number of so many bits."""
        self.engine.assume(small(z3.BitVec(name, WIDTH), width))
        return Int(z3.BitVec(name, WIDTH))


def step(label: str) -> Any:
    """A step of the rules by its label."""
    return next(s for s in rules().steps if s.label == label)


def status_of(result: object) -> int:
    """A handler's status, which no path leaves symbolic."""
    if not isinstance(result, int):
        raise Unsupported("a status that is symbolic")
    return result


def code_of(status: int) -> str:
    """The rules' code of a status."""
    return CODES.get(status, str(status))


def side(name: str) -> Expr:
    """A side of a call as an element."""
    return bits(rules().enums["Side"].index(name))


@contextlib.contextmanager
def standing_in(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Names of modules that mean something else during a run."""
    with contextlib.ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(mock.patch.object(module, name, value, create=name in ("len", "reversed")))
        yield


def layouts(module: object) -> tuple[tuple[object, str, object], ...]:
    """The byte layouts a module uses, over symbolic memory."""
    return tuple((module, name, layout) for name, layout in LAYOUTS.items() if hasattr(module, name))


# --- map_grant_ref ---

def map_grant_ref(path: Path) -> None:
    """GNTTABOP_map_grant_ref by decoded values."""
    m, engine = path.machine, path.engine
    flags, ref, dom = path.argument("flags", 32), path.argument("ref", 32), path.argument("dom", 15)
    engine.assume(number(dom) != number(m.caller.domid))
    addr = path.argument("host_addr", 64)
    handle, no_space = z3.BitVec("handle", WIDTH), z3.BoolVal(False)
    entry_failed = z3.BoolVal(False)
    mapped: list[tuple[Any, Any]] = []
    rounds, given_up = 0, z3.BoolVal(False)

    def get_handle(table: object, vcpu: object) -> object:
        nonlocal no_space
        if engine.choose("no handle left"):
            no_space = z3.BoolVal(True)
            return -1
        engine.assume(z3.And(z3.ULT(handle, z3.BitVec("records", WIDTH)), base("record.flags", handle) == 0))
        return Int(handle)

    def put_handle(table: Any, vcpu: object, given: Any) -> None:
        record = table.maptrack[given]
        record.flags, record.granter = 0, None

    def create_mapping(xen: object, vcpu: object, where: Any, frame: Any, how: Any) -> int:
        nonlocal entry_failed
        if engine.choose("no entry at the address"):
            entry_failed = z3.BoolVal(True)
            return abi.GNTST_GENERAL_ERROR
        mapped.append((frame, how))
        return abi.GNTST_OKAY

    host, device = number(flags) & abi.GNTMAP_HOST_MAP != 0, number(flags) & abi.GNTMAP_DEVICE_MAP != 0
    writable = number(flags) & abi.GNTMAP_READONLY == 0
    t, u = z3.BitVec("t", WIDTH), z3.BitVec("u", WIDTH)
    start = m.before()
    holders = Holders(start, THIS, (handle,), (t, u), lambda s, _: classes(writable, host, device), (side("dest"),))
    engine.assume(z3.And(t != u, z3.Not(start.at("translation.present", t)), z3.Not(start.at("translation.present", u))))
    engine.assume(z3.Not(start.at("translation.cached", t)))
    engine.assume(z3.Not(start.at("translation.cached", u)))
    args = {"caller": number(m.caller.domid), "space": z3.BitVec("space", WIDTH), "dom": number(dom), "ref": number(ref),
            "writable": writable, "host": host, "device": device, "got_h": handle, "got_t": t, "got_u": u, "this": THIS}
    top = base("active.pin", number(dom), number(ref)) & (classes(writable, host, device) << 7) != 0
    pinned: RuleState | None = None
    gone = z3.BoolVal(False)

    with standing_in((grant_map, "get_handle", get_handle), (grant_map, "put_handle", put_handle),
                     (grant_map, "create_mapping", create_mapping), (grant_entries, "STATUS_RETRIES", ROUNDS),
                     *layouts(grant_entries)):
        call = grant_map.map_grant_ref(m, m.vcpu, addr, flags, ref, dom)  # type: ignore[arg-type]
        try:
            while True:
                marker = next(call)
                if marker == "map.pinned":
                    # The page of an entry in use is taken later by the implementation, in this same step by the rules.
                    ends = take(holders.readings(m.before()), step("map_grant_ref"), args, {
                        "a pin counter is at its top": top, "got_h": no_space})
                    gone = ends.codes[-1][1]
                    path.prove("map_grant_ref pinned", [
                        ("the rules refuse", z3.Or(ends.okay, gone)),
                        *[(n, z3.Or(gone, c)) for n, c in same_state(m, ends.state, holders, counts=False)]])
                    pinned = ends.state
                headers = m.headers()
                m.guests_write()
                rounds += marker == "set_status.cmpxchg"
                given_up = z3.And(z3.BoolVal(rounds >= ROUNDS), *[a != b for a, b in zip(headers, m.headers(), strict=True)])
        except StopIteration as stop:
            status, given, bus = stop.value
    status_of(status)
    if pinned is None:
        ends = take(holders.readings(m.before()), step("map_grant_ref"), args, {
            "a pin counter is at its top": z3.Or(top, given_up), "got_h": no_space})
        path.prove(f"map_grant_ref = {code_of(status)}", [
            ("the status", ends.with_code(code_of(status))), *same_state(m, holders.readings(m.before()), holders)])
        return
    # The second step, where entries are what the guests have made of them since.
    second = replace(pinned, functions={**pinned.functions, **{
        name: read for name, read in m.before().functions.items() if name.startswith("entry.")}})
    frame = second.at("hold.frame", THIS, side("dest"))
    page_table = z3.And(writable, base("frame.tcount", frame) > 0, base("frame.ptype", frame) != PGT_WRITABLE)
    ends = take(second, step("map_grant_ref.insert"), args, {
        "no page-table entry at the address, or the page is in use as a page table": z3.Or(entry_failed, page_table)})
    if status == abi.GNTST_OKAY:
        path.prove("map_grant_ref = okay", [
            ("the status", z3.And(ends.okay, z3.Not(gone))), *same_state(m, ends.state, holders),
            ("the handle", number(given) == handle), ("the bus address", number(bus) == frame << 12),
            ("the entry written", host if mapped else z3.Not(host)),
            *[("the entry's frame and mode", z3.And(number(f.mfn) == ends.state.at("translation.frame", t),
               (number(how) & abi.GNTMAP_READONLY == 0) == ends.state.at("translation.writable", t))) for f, how in mapped],
            ("one entry", z3.BoolVal(len(mapped) <= 1))])
        return
    undone = ends.undone[0][1]
    path.prove(f"map_grant_ref.insert = {code_of(status)}", [
        ("the status", z3.Or(z3.And(gone, z3.BoolVal(status == abi.GNTST_GENERAL_ERROR)),
                             z3.And(z3.Not(gone), ends.with_code(code_of(status))))),
        *either(gone, same_state(m, holders.readings(m.before()), holders), same_state(m, undone, holders)),
        ("no entry is left", z3.BoolVal(not mapped))])


# --- unmap_grant_ref, both phases, and the release of a mapping at its mapper's death ---

def record_of(path: Path, handle: Expr) -> tuple[RuleState, Holders, Expr, Expr]:
    """A record of the caller, any at all, with what is always so of a live one whose granter stands."""
    m, engine, start = path.machine, path.engine, path.machine.before()
    d, r = base("record.domid", handle), base("record.ref", handle)
    host_t, device_t = start.at("mapping.host_t", handle), start.at("mapping.device_t", handle)
    writable = start.at("mapping.writable", handle)
    host, device = start.at("mapping.host", handle), start.at("mapping.device", handle)
    engine.assume(z3.Or(d != number(m.caller.domid), base("record.flags", handle) & 3 == 0))
    holders = Holders(start, THIS, (handle,), (host_t, device_t), None, (side("dest"),))
    start = holders.readings(start)
    holders = replace(holders, start=start)
    pins = start.term(Use("pins", (Var("h", "Handle"), Var("d", "Domain"), Var("r", "Ref")), "bool"),
                      {"h": handle, "d": d, "r": r})
    pin, frame = base("active.pin", d, r), base("active.frame", d, r)
    parts = z3.If(host, bits(1), bits(0)) + z3.If(device, bits(1), bits(0))
    engine.assume(z3.Implies(z3.UGE(handle, z3.BitVec("records", WIDTH)), base("record.flags", handle) == 0))
    counted = [z3.Implies(z3.And(part, writable if mode else z3.Not(writable)), pin & (0xFF * one) != 0)
               for part, mode, one in ((host, True, abi.PIN_HSTW), (host, False, abi.PIN_HSTR),
                                       (device, True, abi.PIN_DEVW), (device, False, abi.PIN_DEVR))]
    engine.assume(z3.Implies(pins, z3.And(
        *counted, r < base("table.entries", d), base("frame.owner", frame) == d, z3.UGE(base("frame.count", frame), parts),
        # References of read-only parts go with no type.
        z3.Implies(z3.Not(writable), z3.UGE(base("frame.count", frame), base("frame.tcount", frame) + parts + z3.If(
            base("frame.allocated", frame, truth=True), bits(1), bits(0)))),
        z3.Implies(writable, z3.And(z3.UGE(base("frame.tcount", frame), parts),
                                    base("frame.ptype", frame) == PGT_WRITABLE)))))
    # A mapped device part holds its page, so its granter is there at least as a zombie.
    engine.assume(z3.Implies(device, pins))
    engine.assume(host_t != device_t)
    for part, t in ((host, host_t), (device, device_t)):
        engine.assume(z3.Implies(z3.And(pins, part), z3.And(
            start.at("translation.frame", t) == frame, start.at("translation.writable", t) == writable)))
    engine.assume(z3.Implies(z3.And(pins, device), z3.And(
        start.at("translation.present", device_t), start.at("translation.handle", device_t) == handle,
        start.at("translation.path", device_t) == bits(rules().enums["Path"].index("dma")),
        start.at("space_of", start.at("translation.space", device_t)) == number(m.caller.domid))))
    return start, holders, writable, frame


def unmap_grant_ref(path: Path) -> None:
    """GNTTABOP_unmap_grant_ref: phase one, the flush, phase two."""
    m, engine = path.machine, path.engine
    handle, addr, bus = path.argument("handle", 32), path.argument("host_addr", 64), path.argument("bus_addr", 64)
    h = number(handle)
    start, holders, writable, frame = record_of(path, h)
    label = step("unmap_grant_ref")
    host, device = number(addr) != 0, number(bus) != 0
    args = {"caller": number(m.caller.domid), "space": z3.BitVec("space", WIDTH), "h": h, "host": host, "device": device,
            "this": THIS}
    taken = classes(writable, z3.And(host, start.at("mapping.host", h)), z3.And(device, start.at("mapping.device", h)))
    holders.held = lambda state, s: taken
    refused = z3.BoolVal(False)

    def put_handle(table: Any, vcpu: object, given: Any) -> None:
        record = table.maptrack[given]
        record.flags, record.granter = 0, None

    def replace_mapping(xen: object, vcpu: object, where: Any, page: Any, new: object, how: Any) -> int:
        nonlocal refused
        if engine.choose("another entry at the address"):
            refused = z3.BoolVal(True)
            return abi.GNTST_GENERAL_ERROR
        path.prove("unmap_grant_ref", [("the entry looked for", z3.And(
            number(page.mfn) == frame, (number(how) & abi.GNTMAP_READONLY == 0) == writable))])
        engine.assume(z3.And([start.term(c.cond, args) for c in label.checks
                              if c.kind == "require" and c.code == "GNTST_general_error"]))
        return abi.GNTST_OKAY

    with standing_in((grant_unmap, "put_handle", put_handle), (grant_unmap, "replace_mapping", replace_mapping),
                     (grant_unmap, "len", length), *layouts(grant_entries)):
        status, work = grant_unmap.unmap_one(m, m.vcpu, addr, bus, 0, handle)  # type: ignore[arg-type]
        ends = take(start, label, args, {
            "the bus address is not the frame's": z3.And(
                device, start.at("mapping.device", h), number(bus) != frame << 12),
            "the address names another page-table entry": refused})
        # A caller whose granter has gone is crashed; by the rules its handle is bad.
        code = "GNTST_bad_handle" if m.caller.crashed else code_of(status_of(status))
        if work is None:
            path.prove(f"unmap_grant_ref = {code}", [("the status", ends.with_code(code)), *same_state(m, start, holders)])
            return
        granter, ref, page, done = work
        path.prove("unmap_grant_ref = okay", [
            ("the status", z3.And(ends.okay, z3.BoolVal(status == 0))), *same_state(m, ends.state, holders, counts=False),
            ("what is left to do", z3.And(
                number(granter.domid) == ends.state.at("hold.granter", THIS, side("dest")),
                number(ref) == ends.state.at("hold.ref", THIS, side("dest")),
                number(page.mfn) == ends.state.at("hold.frame", THIS, side("dest")),
                classes(number(done) & abi.GNTMAP_READONLY == 0, number(done) & abi.GNTMAP_HOST_MAP != 0,
                        number(done) & abi.GNTMAP_DEVICE_MAP != 0) == taken))])
        for _ in grant_unmap.finish(m, m.vcpu, (work,)):
            m.guests_write()
    second = replace(ends.state, functions={**ends.state.functions, **{
        name: read for name, read in m.before().functions.items() if name.startswith("entry.")}})
    for part in ("unmap_grant_ref.flush", "unmap_grant_ref.complete"):
        second = take(second, step(part), args, {}).state
    path.prove("unmap_grant_ref.complete", same_state(m, second, holders))


def release_mapping(path: Path) -> None:
    """gnttab_release_mappings of one record of a dying domain."""
    m = path.machine
    h = z3.BitVec("handle", WIDTH)
    path.engine.assume(z3.And(z3.ULT(h, z3.BitVec("records", WIDTH)), base("domain.is_dying", number(m.caller.domid)) == 1))
    start, holders, _, _ = record_of(path, h)
    table: Any = m.caller.grant_table.maptrack
    with standing_in((lifecycle, "reversed", lambda track: [track.find(h)]), (lifecycle, "len", length),
                     *layouts(grant_entries)):
        for _ in lifecycle.release_mappings(m, m.caller):
            raise Unsupported("one record is no batch")
    ends = take(start, step("release_mapping"), {"h": h}, {})
    live = start.term(Use("live", (Var("h", "Handle"),), "bool"), {"h": h})
    path.prove("release_mapping", either(live, same_state(m, ends.state, holders), same_state(m, start, holders)))
    path.prove("release_mapping", [("records looked at", z3.BoolVal(len(table.known) == 1))])


def length(table: Any) -> Any:
    """`len` of a table of any size."""
    return table.size() if isinstance(table, Table) else len(table)


def either(cond: Expr, yes: Claims, no: Claims) -> Claims:
    """The one list of claims, or the other."""
    return [(name, z3.If(cond, claim, other)) for (name, claim), (_, other) in zip(yes, no, strict=True)]


# --- running them ---

PV = "paravirtual domains, grants of another domain; host entries, and handles' free lists, by contract"
HANDLERS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "map_grant_ref": (map_grant_ref, "all arguments, tables of any size, both versions; guests write between the checks, "
                                     "one round of compare-and-swap; " + PV),
    "unmap_grant_ref": (unmap_grant_ref, "all arguments (new_addr 0), any record, tables of any size, both versions; guests "
                                         "write at the flush; " + PV),
    "release_mapping": (
        release_mapping, "one record of a dying domain, any at all; tables of any size, both versions; " + PV),
}


def prove_handler(name: str, stop_early: bool = False) -> HandlerReport:
    """One handler along all its paths (or until something is found)."""
    body, symbolic = HANDLERS[name]
    engine = Engine()
    started = time.perf_counter()
    findings: list[str] = []
    paths, covered = 0, False

    def run() -> None:
        path = Path()
        body(path)
        findings.extend(path.findings)

    try:
        for paths in engine.paths(run):
            if findings and stop_early:
                break
        else:
            covered = engine.covered()
        if not findings and not covered:
            findings.append("the paths do not cover all inputs")
    except Exception as error:  # whatever stops a path is a finding: nothing is passed over
        findings.append(f"path {paths + 1}: {type(error).__name__}: {error}")
    return HandlerReport(name, paths, not findings, tuple(dict.fromkeys(findings)), time.perf_counter() - started, symbolic)


def prove_handlers(jobs: Iterable[str] | None = None, stop_early: bool = False) -> list[HandlerReport]:
    """The handlers named, or all."""
    return [prove_handler(name, stop_early) for name in (HANDLERS if jobs is None else jobs)]


def report_lines(reports: Iterable[HandlerReport]) -> list[str]:
    """The reports as plain text."""
    lines = []
    for r in reports:
        lines.append(f"  {r.name:<20} {'proved' if r.proved else 'NOT PROVED':<10} {r.paths:>5} paths  {r.seconds:5.2f} s")
        lines.append(f"      {r.symbolic}")
        lines += [f"      {finding}" for finding in r.findings]
    return lines

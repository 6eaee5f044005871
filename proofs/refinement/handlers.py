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

from impl.xen import abi, grant_entries, grant_map
from impl.xen.frames import PGT_WRITABLE
from model import loader
from model.ir import System
from proofs.refinement.symbolic import WIDTH, Engine, Expr, Int, Unsupported, number
from proofs.refinement.symbolic_compare import Claims, Holders, arbitrary, classes, same_state
from proofs.refinement.symbolic_machine import LAYOUTS, Machine, base, small
from proofs.refinement.symbolic_rules import RuleState, bits, take

CODES = {value: "GNTST_" + name[6:].lower() for name, value in vars(abi).items() if name.startswith("GNTST_")}
ROUNDS = 2  # of the compare-and-swap of a version 1 entry
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
            stack.enter_context(mock.patch.object(module, name, value, create=name in ("len", "range")))
        yield


def layouts(module: object) -> tuple[tuple[object, str, object], ...]:
    """The byte layouts a module uses, over symbolic memory."""
    return tuple((module, name, layout) for name, layout in LAYOUTS.items() if hasattr(module, name))


# --- map_grant_ref ---

def map_grant_ref(path: Path) -> None:
    """GNTTABOP_map_grant_ref by decoded values."""
    m, engine = path.machine, path.engine
    flags, ref, dom = path.argument("flags", 32), path.argument("ref", 32), path.argument("dom", 15)
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


def either(cond: Expr, yes: Claims, no: Claims) -> Claims:
    """The one list of claims, or the other."""
    return [(name, z3.If(cond, claim, other)) for (name, claim), (_, other) in zip(yes, no, strict=True)]


# --- running them ---

PV = "paravirtual domains; host entries, and handles' free lists, by contract"
HANDLERS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "map_grant_ref": (map_grant_ref, "all arguments, tables of any size, both versions; guests write between the checks, "
                                     "two rounds of compare-and-swap; " + PV),
}


def prove_handler(name: str) -> HandlerReport:
    """One handler along all its paths."""
    body, symbolic = HANDLERS[name]
    engine = Engine()
    started = time.perf_counter()
    findings: list[str] = []
    paths = 0

    def run() -> None:
        path = Path()
        body(path)
        findings.extend(path.findings)

    try:
        for paths in engine.paths(run):  # noqa: B007
            pass
        if not engine.covered():
            findings.append("the paths do not cover all inputs")
    except Exception as error:  # whatever stops a path is a finding: nothing is passed over
        findings.append(f"path {paths + 1}: {type(error).__name__}: {error}")
    return HandlerReport(name, paths, not findings, tuple(dict.fromkeys(findings)), time.perf_counter() - started, symbolic)


def prove_handlers(jobs: Iterable[str] | None = None) -> list[HandlerReport]:
    """The handlers named, or all."""
    return [prove_handler(name) for name in (HANDLERS if jobs is None else jobs)]


def report_lines(reports: Iterable[HandlerReport]) -> list[str]:
    """The reports as plain text."""
    lines = []
    for r in reports:
        lines.append(f"  {r.name:<20} {'proved' if r.proved else 'NOT PROVED':<10} {r.paths:>5} paths  {r.seconds:5.2f} s")
        lines.append(f"      {r.symbolic}")
        lines += [f"      {finding}" for finding in r.findings]
    return lines

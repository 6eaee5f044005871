"""The abstraction function has two forms, on numbers for campaigns and on symbolic terms for proofs of handlers: both agree.

Both forms compare each campaign state without calls in flight, and that state with one change on either side:
at which places do implementation and rules differ? The symbolic form is evaluated with the machine's numbers
for its variables. It covers less (`in_scope`): no transfers, no transitive grants, of Xen's own pages only status frames,
and no unreferenced pages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, DYING, Domain
from bulkhead.proofs.refinement.handlers import abstraction as on_terms
from bulkhead.proofs.refinement.handlers import obligations
from bulkhead.proofs.refinement.handlers.objects import FLAGS, base
from bulkhead.proofs.refinement.handlers.obligations import HERE, MASK, Holders, bits_of_pin, same_state
from bulkhead.proofs.refinement.handlers.spec_terms import RuleState
from bulkhead.proofs.refinement.handlers.symbolic_xen import SymbolicXen
from bulkhead.proofs.refinement.interleaved import Interleaved
from bulkhead.proofs.refinement.lockstep import abstraction as on_numbers
from bulkhead.proofs.refinement.lockstep.dump import LONGEST, dump
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_world import NOBODY, Size, rules_for
from bulkhead.proofs.refinement.workload.scheduler import Driver
from bulkhead.proofs.symbolic.engine import Engine
from bulkhead.proofs.symbolic.inputs import Input, Place
from bulkhead.proofs.symbolic.terms import BITS, BOOL, MODULUS, And, If, Term, apply, eq, number

Where = tuple[str, tuple[int, ...]]  # a group of claims and the place they are of, by domid, reference, frame or handle
SIZE = Size()
# The obligations of the symbolic form, grouped as in the other form.
GROUPS = {
    "domain.phase": "phase",
    "version": "version",
    "fits": "fits",
    "status": "pins",
    "entry": "entry",
    "active": "active",
    "frame": "frame",
    "mapping": "mapping",
    "in-use bits": "bits",
}
KEYS = {
    "phase": "d",
    "version": "d",
    "fits": "drv",
    "entry": "dr",
    "pins": "dr",
    "bits": "dr",
    "active": "dr",
    "frame": "f",
    "mapping": "h",
}
BEYOND = ("accept_transfer", "transfer_completed", "transitive")  # kinds of entries that the handlers' form does not cover


# --- the symbolic form, on numbers ---


def rule(name: str, *args: Term) -> Term:
    """A state function of the rules' own state."""
    system = rules_for(SIZE).system
    return apply("rules " + name, args, BOOL if system.funcs[name].sort == BOOL else BITS)


def unnamed(name: str, kind: str, present: Callable[..., Term]) -> Callable[..., Term]:
    """A state function whose value may represent many unused numbers: then any of them matches."""

    def value(*args: Term) -> Term:
        same = And(apply(f"rules {name} is {kind}", args, BOOL), apply(kind, (present(*args),), BOOL))
        return If(same, present(*args), rule(name, *args))

    return value


def claims() -> dict[str, list[Term]]:
    """The obligations of the symbolic form for each group, if implementation and rules are in the same state."""
    found: dict[str, list[Term]] = {}
    system = rules_for(SIZE).system

    def body() -> None:
        machine = SymbolicXen(system)
        present = on_terms.now(machine)
        functions: dict[str, Callable[..., Term]] = {
            name: (lambda *args, name=name: rule(name, *args)) for name in present.functions if name in system.funcs
        }
        for name, kind in (("entry.frame", "nowhere"), ("active.frame", "nowhere"), ("entry.grantee", "nobody")):
            functions[name] = unnamed(name, kind, present.functions[name])
        state = RuleState(system, functions)
        for name, claim in same_state(machine, state, Holders(state, apply("no call", ()))):
            group = GROUPS.get(name) or GROUPS.get(name.partition(".")[0])
            if group is not None:
                found.setdefault(group, []).append(claim)
        d, r = HERE["d"], HERE["r"]
        bits = (
            If(
                eq(base("table.version", d), number(1)),
                apply("shared#0", (d, r << 2), bits=16),
                apply("word#0", (d, r), bits=16),
            )
            & MASK
        )
        found["bits"] = [eq(bits, bits_of_pin(base("active.pin", d, r)))]

    assert list(Engine().paths(body)) == [1]
    return found


@dataclass
class Numbers:
    """Values of all free symbols in the obligations: both sides' state at one place. Replaces a solver's model."""

    lockstep: Lockstep
    caller: int
    here: dict[str, int] = field(default_factory=dict)

    def value(self, place: Place, term: Term) -> int:
        """The number at a place."""
        name, args = place
        if name.startswith("any_"):
            return self.here[name.removeprefix("any_")]
        if name == "caller":
            return self.caller
        if name == "nowhere":
            return int(self.lockstep.spec_state.frame(args[0]) == SIZE.nowhere)
        if name == "nobody":
            return int(self.lockstep.spec_state.domain(args[0]) == NOBODY)
        if name.startswith("rules "):
            return self.of_rules(name.removeprefix("rules "), args)
        if name.partition("#")[0] in ("shared", "word"):
            return self.memory(name.partition("#")[0], *args)
        kind, attr = name.split(".")
        value = self.of_machine(kind, attr, args)
        return int(value) if name in FLAGS else value % MODULUS

    def memory(self, name: str, domid: int, cell: int) -> int:
        """A 16-bit cell of a table's shared pages, or of its status frames."""
        table = self.lockstep.rig.xen.domains[domid].grant_table
        pages = table.shared if name == "shared" else table.status
        data = pages[cell >> 11].data
        return int(abi.U16.unpack_from(data, (cell & 2047) * 2)[0]) if data is not None else 0

    def of_machine(self, kind: str, attr: str, args: tuple[int, ...]) -> int:
        """A field of the implementation."""
        xen, spec_state = self.lockstep.rig.xen, self.lockstep.spec_state
        if kind == "frame":
            frame = xen.frames.table.get(args[0])
            match attr:
                case "known":
                    return frame is not None
                case "owner":
                    return -1 if frame is None or frame.owner is None else frame.owner.domid
            return 0 if frame is None else int(getattr(frame, attr))
        domain = xen.domains.get(args[0] if kind != "record" else self.caller)
        if attr == "exists" or domain is None:
            return domain is not None
        table = domain.grant_table
        match kind, attr:
            case "domain", "finished":
                return domain.creation_finished
            case "domain", "life":
                return spec_state.lives[domain]
            case "domain", _:
                return int(getattr(domain, attr))
            case "table", "entries":
                return table.nr_entries
            case "table", "frames":
                return len(table.shared)
            case "table", "version":
                return table.version
            case "active", "frame":
                held = table.active[args[1]].frame
                return -1 if held is None else held.mfn
            case "active", _:
                return int(getattr(table.active[args[1]], attr))
            case "record", "life":
                granter = table.maptrack[args[0]].granter
                h = spec_state.handles.get((self.caller, args[0]), 0)
                return (
                    spec_state.T["mapping.granter_life"][h] if granter not in spec_state.lives else spec_state.lives[granter]
                )
        return int(getattr(table.maptrack[args[0]], attr))

    def of_rules(self, name: str, args: tuple[int, ...]) -> int:
        """A state function of the rules, elements read as the numbers they stand for."""
        spec_state = self.lockstep.spec_state
        name, _, unnamed_kind = name.partition(" is ")
        sorts = spec_state.rules.system.funcs[name].args
        elements = []
        for sort, arg in zip(sorts, args, strict=True):
            if sort == "Handle":
                found = spec_state.handles.get((self.caller, arg))
                if found is None:
                    return 0
                elements.append(found)
            else:
                elements.append(spec_state.ref(arg) if sort == "Ref" else spec_state.frame(arg) if sort == "Frame" else arg)
        value = spec_state.at(name, *elements)
        if unnamed_kind:
            return int(value == (SIZE.nowhere if unnamed_kind == "nowhere" else NOBODY))
        match spec_state.rules.system.funcs[name].sort:
            case "Frame":
                return spec_state.mfn(value) if value != SIZE.nowhere else MODULUS - 2
            case "Domain":
                return value if value != NOBODY else MODULUS - 2
            case "Ref":
                return SIZE.refs[value]
        return value


def apart_on_terms(lockstep: Lockstep, claimed: dict[str, list[Term]]) -> set[Where]:
    """The differences that the symbolic form finds."""
    found: set[Where] = set()
    for group, caller, place in places(lockstep):
        here = dict(zip(KEYS[group], place, strict=True))
        if group == "frame":
            here["f"] += lockstep.spec_state.first_mfn
        values = Input(Numbers(lockstep, caller, here))  # type: ignore[arg-type]
        if not all(values.value(claim) for claim in claimed[group]):
            found.add((group, label(group, place)))
    return found


def label(group: str, place: tuple[int, ...]) -> tuple[int, ...]:
    """The common name of a place in both forms: `fits` of both versions is one group, and records are counted together."""
    if group == "mapping":
        return ()
    return place[:2] if group == "fits" else place


def places(lockstep: Lockstep) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """All places that the symbolic form covers: group, calling domain, place."""
    spec_state = lockstep.spec_state
    for d, domain in lockstep.rig.xen.domains.items():
        if d >= NOBODY or not spec_state.bound(domain):
            continue
        if d:
            yield "phase", d, (d,)
            yield "version", d, (d,)
        for ref in SIZE.refs:
            if d:
                yield from (("fits", d, (d, ref, v)) for v in (0, 1))
            if ref < domain.grant_table.nr_entries:
                for group in ("entry", "pins", "bits", "active"):
                    if in_scope(lockstep, group, domain, ref):
                        yield group, d, (d, ref)
        records = {n for n, record in enumerate(domain.grant_table.maptrack) if record.flags & 3}
        for handle in sorted(records | {n for who, n in spec_state.handles if who == d}):
            yield "mapping", d, (handle,)
    for f in range(SIZE.heap):
        if frame_in_scope(lockstep, f):
            yield "frame", 0, (f,)


def in_scope(lockstep: Lockstep, group: str, domain: Domain, ref: int) -> bool:
    """Excludes entries for transfers, transitive ones, in-use bits that the guest has overwritten, and the record of a use
    (and the read-only flag of entries that grant nothing) if the two sides disagree on the use itself."""
    spec_state, d = lockstep.spec_state, domain.domid
    flags = abi.HEADER.unpack_from(*domain.grant_table.header_at(ref))[0]
    k = d * spec_state.rules.nrefs + spec_state.ref(ref)
    act = domain.grant_table.active[ref]
    if domain.external:
        return False  # its entries have guest frame numbers
    if flags & abi.GTF_TYPE_MASK in (abi.GTF_ACCEPT_TRANSFER, abi.GTF_TRANSITIVE) or spec_state.T["entry.kind"][k] in [
        spec_state.kind[t] for t in BEYOND
    ]:
        return False
    if group == "bits":
        return (d, spec_state.ref(ref)) not in lockstep.overwritten_bits and agreed(spec_state.T, k, act.pin)
    return group == "pins" or agreed(spec_state.T, k, act.pin)


def agreed(T: dict[str, list[int]], k: int, pin: int) -> bool:
    """Do both sides agree on whether an entry is in use?"""
    return (bool(T["status.reading"][k]), bool(T["status.writing"][k])) == (bool(pin), bool(pin & abi.PIN_WRITERS))


def frame_in_scope(lockstep: Lockstep, f: int) -> bool:
    """A referenced page; of Xen's own only a status frame, as the handlers' form has no others."""
    spec_state = lockstep.spec_state
    frame = lockstep.rig.xen.frames.table.get(spec_state.first_mfn + f)
    if frame is None or frame.count == 0 or f in spec_state.awaiting_free:
        return False
    return on_numbers.place_of(frame) not in ("xen", "table", "info")


# --- the form on numbers ---


def apart_on_numbers(lockstep: Lockstep) -> set[Where]:
    """The differences that the form on numbers finds, at places that both forms cover."""
    both = {(group, label(group, place)) for group, _, place in places(lockstep)}
    found = on_numbers.differences(lockstep.rig, lockstep.spec_state, lockstep.overwritten_bits, set(), False)
    return {where for where in map(where_of, found) if where is not None and (where in both or where[0] == "mapping")}


def where_of(key: str) -> Where | None:
    """A key of `differences` as a group and a place; None for places that only that form covers."""
    if key.startswith(("mapping", "number of live mappings")):
        return "mapping", ()
    name, _, rest = key.partition("[")
    numbers, _, more = rest.partition("]")
    place = tuple(int(n) for n in numbers.split(", ")) if numbers else ()
    match name:
        case "domain":
            return ("phase", place) if more == ".phase" else None
        case "status":
            return ("pins" if more else "bits", place)
        case "version" | "fits" | "entry" | "active":
            return name, place
        case "frame":
            return None if more == ".content" else ("frame", place)
    return None


# --- states, and changes of one side ---


def states(seed: int, count: int) -> Iterator[Lockstep]:
    """States of a campaign without calls in flight; each is a few calls after the previous one."""
    for episode in range(1, 1000):
        lockstep = Lockstep(rules_for(SIZE), seed * 1000 + episode, full_every=0)
        target = Interleaved(lockstep)
        driver = Driver(target.view, target, seed * 1000 + episode)
        while lockstep.calls < 400:
            driver.move()
            driver.finish_calls()
            lockstep.settle()
            yield lockstep
            count -= 1
            if not count:
                return


def change_of_machine(lockstep: Lockstep, rng: random.Random) -> Callable[[], None]:
    """Change one place of the implementation; returns the undo function."""
    xen = lockstep.rig.xen
    domain = rng.choice([d for n, d in xen.domains.items() if n < NOBODY and lockstep.spec_state.bound(d)])
    table = domain.grant_table
    refs = [n for n in SIZE.refs if n < table.nr_entries]
    frames = [
        f
        for n in range(SIZE.heap)
        if frame_in_scope(lockstep, n) and (f := xen.frames.table.get(lockstep.spec_state.first_mfn + n)) is not None
    ]
    records = [r for d in xen.domains.values() for r in d.grant_table.maptrack if r.flags & 3]
    used = [n for n in refs if table.active[n].pin] or refs
    act = table.active[rng.choice(used)]
    match rng.randrange(6):
        case 0 | 1:
            ref, size = rng.choice(refs), 8 if table.version == 1 else 16
            if rng.random() < 0.3:
                return put(*table.status_at(ref), rng.choice((abi.GTF_READING, abi.GTF_WRITING)))
            data, off = table.header_at(ref)
            return put(data, off + rng.randrange(size), 1 << rng.randrange(8))
        case 2:
            name, value = rng.choice(
                (
                    ("pin", act.pin ^ 1 << 8 * rng.randrange(4)),
                    ("domid", act.domid ^ 1),
                    ("sub_page", not act.sub_page),
                    ("frame", rng.choice([*frames, None])),
                )
            )
            return setting(act, name, value)
        case 3 if records:
            record = rng.choice(records)
            name, value = rng.choice(
                (
                    ("flags", record.flags ^ 1 << rng.randrange(3)),
                    ("domid", record.domid ^ 1),
                    ("ref", rng.choice(SIZE.refs)),
                )
            )
            return setting(record, name, value)
        case 4 if frames:
            page = rng.choice(frames)
            owner = rng.choice([None, *xen.domains.values()])
            return setting(page, "owner", owner) if rng.random() < 0.5 else setting(page, "allocated", not page.allocated)
        case _ if domain.domid:
            name, value = rng.choice(
                (
                    ("is_dying", DYING if domain.is_dying == ALIVE else ALIVE),
                    ("creation_finished", not domain.creation_finished),
                )
            )
            return setting(domain, name, value)
    return lambda: None


def put(data: bytearray, where: int, bits: int) -> Callable[[], None]:
    """Flip some bits of a byte."""

    def turn() -> None:
        data[where] ^= bits

    turn()
    return turn


def setting(thing: Any, name: str, value: object) -> Callable[[], None]:
    """Set an attribute."""
    before = getattr(thing, name)
    setattr(thing, name, value)
    return lambda: setattr(thing, name, before)


CHANGED = (
    "domain.phase",
    "version",
    "fits",
    "entry.kind",
    "entry.grantee",
    "entry.readonly",
    "entry.frame",
    "entry.part",
    "status.reading",
    "status.writing",
    "active.grantee",
    "active.frame",
    "active.part",
    "frame.use",
    "frame.owner",
    "frame.held",
    "mapping.host",
    "mapping.device",
    "mapping.writable",
    "mapping.mapper",
    "mapping.granter",
    "mapping.ref",
)


def change_of_rules(lockstep: Lockstep, rng: random.Random) -> Callable[[], None]:
    """Change a state function at one used place; returns the undo function."""
    spec_state = lockstep.spec_state
    name = rng.choice(CHANGED)
    values, func = spec_state.T[name], spec_state.rules.system.funcs[name]
    block = 2 * len(SIZE.refs) if name == "fits" else len(SIZE.refs) if len(func.args) == 2 else 1
    domains = [d for d in lockstep.rig.xen.domains if d < NOBODY]
    things = {
        "Domain": [d * block + n for d in domains for n in range(block)],
        "Handle": list(spec_state.handles.values()),
        "Frame": [f for f in range(SIZE.heap) if frame_in_scope(lockstep, f)],
    }[func.args[0]]
    if not things:
        return lambda: None
    where = rng.choice(things)
    most = {"bool": 2, "Domain": NOBODY, "Frame": SIZE.heap, "Ref": len(SIZE.refs)}
    before = values[where]
    values[where] = rng.randrange(most.get(func.sort) or len(spec_state.rules.system.enums[func.sort]))

    def undo() -> None:
        values[where] = before

    return undo


def held_together(seed: int, count: int) -> tuple[int, set[str]]:
    """Compare both forms on so many states and changes. Returns the number of states that both reject, and their groups."""
    claimed = claims()
    rng = random.Random(seed)
    refused = 0
    seen: set[str] = set()
    for lockstep in states(seed, count):
        for change in (None, change_of_machine, change_of_rules):
            undo = change(lockstep, rng) if change is not None else lambda: None
            numbers, terms = apart_on_numbers(lockstep), apart_on_terms(lockstep, claimed)
            undo()
            assert numbers == terms, f"the forms differ: on numbers {numbers - terms}, on terms {terms - numbers}"
            assert change is not None or not numbers, f"a state of a campaign is refused: {numbers}"
            refused += bool(numbers)
            seen |= {group for group, _ in numbers}
    return refused, seen


# --- tests ---


@pytest.mark.slow
def test_both_forms_say_the_same() -> None:
    """Thousands of states, two thirds of them changed; every group of obligations fails somewhere."""
    refused, seen = held_together(1, 750)
    assert refused > 500
    assert seen == set(KEYS)


ENTRY_OF, ENTRY_DIFFERENCES, ENTRY = on_numbers.entry_of, on_numbers.entry_differences, on_terms._entry


def _no_parts(*args: Any) -> on_numbers.Entry:
    return (*ENTRY_OF(*args)[:4], 0)


def _uses_unseen(
    spec_state: Any, domain: Domain, r: int, overwritten_bits: Any, moving: Any, out: on_numbers.Places
) -> None:
    found: on_numbers.Places = {}
    ENTRY_DIFFERENCES(spec_state, domain, r, overwritten_bits, moving, found)
    out.update({key: pair for key, pair in found.items() if not key.startswith("active")})


def _fields_mixed_up(machine: SymbolicXen, value: Any, cell: Any, name: str) -> Any:
    return ENTRY(machine, value, cell, "part" if name == "readonly" else name)


# Faults of one form: place and replacement. Some reject correct states, some accept wrong ones.
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "numbers: parts are not read": (on_numbers, "entry_of", _no_parts),
    "numbers: a use is not looked at": (on_numbers, "entry_differences", _uses_unseen),
    "numbers: who is dead is alive": (on_numbers, "ALIVE", DYING),
    "terms: two flags are mixed up": (on_terms, "_entry", _fields_mixed_up),
    "terms: nobody is dying": (on_terms, "DYING", ALIVE),
    "terms: what is held is not looked at": (obligations, "PLAIN", tuple(n for n in obligations.PLAIN if n != "frame.held")),
    "terms: frames are read a cell too far": (
        on_terms,
        "_wide",
        lambda at, d, first, cells, wide=on_terms._wide: wide(at, d, first + 1, cells - 1),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_form_is_noticed(fault: str) -> None:
    module, name, value = FAULTS[fault]
    with mock.patch.object(module, name, value), pytest.raises(AssertionError, match="the forms differ"):
        held_together(2, 400)


def test_a_long_difference_is_told_where_it_begins() -> None:
    """A stream of 64 KiB would fill the screen and hide which call was wrong."""
    stream = bytes(range(256)) * 256
    (line,) = dump({"console[3].waiting": (stream, stream[:40_000] + b"?" + stream[40_001:])})
    assert len(line) < 3 * LONGEST
    assert "rules ..." in line and "implementation ..." in line and "?" in line.partition("implementation")[2]
    assert list(dump({"frame[3].owner": (1, 2)})) == ["  frame[3].owner: rules 1, implementation 2"]

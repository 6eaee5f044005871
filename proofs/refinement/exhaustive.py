"""All states of a small machine: breadth first over what two guests can do with two pages and two references.

Every step of a call that yields is an action of its own, so every interleaving of the calls in flight is taken. Two runs
that end in the same implementation state are continued once. A state without calls in flight is kept as a pickle; others
are reached again from the last such state. After each action everything is compared, and in each new state all invariants
and theorems are evaluated. The bound is the number of actions from the start.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from impl.xen import abi
from impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_RW, PTE_USER, read_pte
from impl.xen.scheduler import HELD
from proofs.refinement import rules_of as r
from proofs.refinement.abstraction import dump
from proofs.refinement.bench import Bench
from proofs.refinement.rig import SLOTS, Guest
from proofs.refinement.rules_of import CopyElement, Flight, MapElement, UnmapElement
from proofs.refinement.shadow import Mismatch
from proofs.refinement.world import SMALL, Rules, Size, rules_for

DEPTH = 5
REF = 8
GRANTER, MAPPER = 1, 2
Action = tuple[str, int]


@dataclass
class Result:
    """What was found: new states per number of actions, and the first mismatch if there was one."""

    depth: int
    states: int = 0
    actions: int = 0
    by_depth: list[int] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""
    complete: bool = True

    def text(self) -> str:
        end = "all of them" if self.complete else "cut short by the time given"
        return (f"{self.states} states of 2 guests, 2 pages, 2 references, within {self.depth} actions of the start "
                f"({end}): {self.actions} steps compared in {self.seconds:.1f} s; new states per action {self.by_depth}.")


def freeze(bench: Bench) -> bytes:
    """A machine without calls in flight, as bytes; the rules themselves are not copied."""
    return pickle.dumps(bench, pickle.HIGHEST_PROTOCOL)


def thaw(data: bytes) -> Bench:
    """The machine again."""
    bench: Bench = pickle.loads(data)
    return bench


def start(rules: Rules) -> Bench:
    """Two guests; the granter has one page of its own, the mapper none; the granter's table has one entry ready."""
    bench = Bench(rules, 1, full_every=1)
    bench.create(GRANTER)
    bench.create(MAPPER)
    guest = bench.rig.guests[GRANTER]
    populate(bench, guest)
    while bench.flights:
        bench.advance(bench.flights[0])
    return bench


def fly(b: Bench, guest: Guest, text: str, number: int, args: tuple[int, ...], payload: bytes,
        follower: Callable[[Flight], r.Follower]) -> None:
    """Start a call on the guest's first free vCPU and take its first step."""
    busy = {f.vcpu for f in b.flights if f.domid == guest.domid and f.guest is not None}
    vcpu = next(v for v in (0, 1) if v not in busy)
    args = tuple(guest.arg(vcpu) if a == -1 else a for a in args)
    steps = guest.start(vcpu, number, args, payload)
    flight = Flight(f"d{guest.domid}v{vcpu}: {text}", guest.domid, vcpu, steps, guest=guest)
    b.launch(flight, follower(flight), 1)
    b.advance(flight)


def populate(b: Bench, guest: Guest) -> None:
    """populate_physmap of one page."""
    base = guest.arg(0 if not any(f.domid == guest.domid for f in b.flights) else 1)
    payload = abi.MEMORY_RESERVATION.pack(base + 64, 1, 0, 0, abi.DOMID_SELF, 0, 0) + bytes(32) + abi.U64.pack(0)
    fly(b, guest, "populate_physmap", abi.HYPERVISOR_MEMORY_OP, (abi.XENMEM_POPULATE_PHYSMAP, -1), payload,
        lambda f: r.follow_populate(b, f, 1))


def actions(b: Bench) -> list[Action]:
    """What can be done next."""
    holder = next((i for i, f in enumerate(b.flights) if f.marker in HELD or f.hurry), None)
    stores: list[Action] = []
    granter, mapper = b.rig.guests.get(GRANTER), b.rig.guests.get(MAPPER)
    if granter is not None and not granter.domain.is_dying and granter.pool:
        stores = [("entry", flags) for flags in (0, 1, 5)]
    if holder is not None:
        return [("step", holder), *([] if b.flights[holder].hurry else stores)]
    out: list[Action] = [("step", i) for i in range(len(b.flights))]
    if len(b.flights) >= 2:
        return out + stores
    if stores and granter is not None and _idle(b, GRANTER):
        out += [*stores, ("decrease", 0)]
        out += [("self_map", 0)]
    if granter is not None and not granter.domain.is_dying and not b.flights:
        out += [("destroy", GRANTER), ("version", 3 - granter.domain.grant_table.version)]
        if b.can_populate(granter):
            out.append(("populate", GRANTER))
    if mapper is not None and not mapper.domain.is_dying and not mapper.domain.crashed and _idle(b, MAPPER):
        out += [("map", 2), ("map", 6), ("copy", 0), ("load", 0)]
        if read_pte(mapper.window, 0) & PTE_P:
            out.append(("clear", 0))
        out += [("unmap", n) for n, rec in enumerate(mapper.domain.grant_table.maptrack) if rec.flags & 3][:2]
        if b.can_populate(mapper):
            out.append(("populate", MAPPER))
    return out


def _idle(b: Bench, domid: int) -> bool:
    return not any(f.domid == domid for f in b.flights)


def act(b: Bench, action: Action) -> None:
    """Do it."""
    name, n = action
    guests = b.rig.guests
    if name == "step":
        b.advance(b.flights[n])
    elif name == "entry":
        granter = guests[GRANTER]
        b.steps += 1
        b.store_entry(granter, REF, n, MAPPER, granter.pool[0], True)
        b.compare_all()
    elif name == "decrease":
        granter = guests[GRANTER]
        mfn = granter.pool[0]
        base = granter.arg(0)
        payload = abi.MEMORY_RESERVATION.pack(base + 64, 1, 0, 0, abi.DOMID_SELF, 0, 0) + bytes(32) + abi.U64.pack(mfn)
        fly(b, granter, "decrease", abi.HYPERVISOR_MEMORY_OP, (abi.XENMEM_DECREASE_RESERVATION, -1), payload,
            lambda f: r.follow_decrease(b, f, [mfn]))
    elif name == "populate":
        populate(b, guests[n])
    elif name == "version":
        fly(b, guests[GRANTER], f"set_version {n}", 20, (8, -1, 1), abi.SET_VERSION.pack(n),
            lambda f: r.follow_version(b, f, n))
    elif name == "destroy":
        _destroy(b, guests[n])
    elif name == "self_map":
        granter = guests[GRANTER]
        pte = granter.pool[0] << 12 | PTE_P | PTE_RW | PTE_USER | PTE_A | PTE_D
        fly(b, granter, "mmu_update", 1, (-1, 1, 0, abi.DOMID_SELF),
            abi.MMU_UPDATE.pack(granter.layout.window_maddr(0), pte),
            lambda f: r.follow_mmu(b, f, 0, pte, abi.DOMID_SELF, True))
    else:
        _mapper_acts(b, guests[MAPPER], name, n)


def _mapper_acts(b: Bench, mapper: Guest, name: str, n: int) -> None:
    if name == "map":
        slot = 0 if n == 6 else 1
        element = MapElement(slot, n, REF, GRANTER, mapper.slot_va(slot))
        fly(b, mapper, f"map {n}", 20, (0, -1, 1), abi.MAP_GRANT_REF.pack(element.addr, n, REF, GRANTER, 0, 0, 0),
            lambda f: r.follow_map(b, f, [element]))
    elif name == "unmap":
        slot = 0 if mapper.domain.grant_table.maptrack[n].flags & 4 else 1
        unmapping = UnmapElement(slot, mapper.slot_va(slot), 0, n)
        fly(b, mapper, f"unmap {n}", 20, (1, -1, 1), abi.UNMAP_GRANT_REF.pack(unmapping.addr, 0, n, 0, 0),
            lambda f: r.follow_unmap(b, f, [unmapping]))
    elif name == "copy":
        side = CopyElement(True, REF, GRANTER, 0, True, REF, GRANTER, 64, 32)
        fly(b, mapper, "copy", 20, (5, -1, 1), abi.COPY.pack(REF, GRANTER, 0, 0, REF, GRANTER, 64, 0, 32, 3, 0, 0),
            lambda f: r.follow_copy(b, f, [side]))
    elif name == "clear":
        fly(b, mapper, "clear", 1, (-1, 1, 0, abi.DOMID_SELF), abi.MMU_UPDATE.pack(mapper.layout.window_maddr(0), 0),
            lambda f: r.follow_mmu(b, f, 0, 0, abi.DOMID_SELF, True))
    elif name == "load":
        b.steps += 1
        b.access(mapper, 0, 0, False)
        b.access(mapper, 0, 1, True)
        b.compare_all()


def _destroy(b: Bench, guest: Guest) -> None:
    from proofs.refinement.campaign import write_domctl

    kernel = b.rig.kernel
    write_domctl(b, abi.DOMCTL_HEADER.pack(abi.DOMCTL_DESTROYDOMAIN, abi.DOMCTL_INTERFACE_VERSION, guest.domid, 0, 0, 0))
    flight = Flight("destroy", guest.domid, 0, b.rig.xen.hypercall(kernel.vcpu, abi.HYPERVISOR_DOMCTL, kernel.arg_va))
    b.launch(flight, r.follow_destroy(b, flight, guest.domid), 0)
    b.advance(flight)


def canonical(b: Bench) -> bytes:
    """The state as bytes: what decides how the implementation goes on, and what was offered to whom."""
    sh, xen = b.shadow, b.rig.xen
    frames = []
    for f in range(sh.size.heap):
        frame = xen.frames.table.get(sh.first_mfn + f)
        if frame is not None:
            owner = -1 if frame.owner is None else frame.owner.domid
            frames.append((f, owner, frame.count, frame.tcount, frame.ptype if frame.tcount else 0, frame.allocated,
                           frame.dirty, frame.xenheap))
    domains = []
    for d, domain in sorted(xen.domains.items()):
        if not d:
            continue
        table = domain.grant_table
        data, off = table.header_at(REF)
        act_ = table.active[REF]
        domains.append((d, domain.is_dying, domain.pause_count, domain.crashed, table.version, bytes(data[off:off + 16]),
                        table.status_at(REF)[0][table.status_at(REF)[1]], act_.pin, act_.domid if act_.pin else -1,
                        act_.frame.mfn if act_.pin and act_.frame else -1,
                        [(n, rec.flags, rec.domid, rec.ref) for n, rec in enumerate(table.maptrack) if rec.flags & 3]))
    guests = [(d, [read_pte(g.window, s) for s in range(SLOTS)] if g.domain.vcpus[0].cr3 is not None else [],
               [sorted((vpn, fr.mfn, w) for vpn, (fr, w, _) in v.tlb.entries.items() if 0 <= vpn - g.first_vpn < SLOTS)
                for v in g.domain.vcpus]) for d, g in sorted(b.rig.guests.items())]
    flights = [(f.text, f.marker, f.seen) for f in b.flights]
    offers = [name for name in ("offered", "offered_rw") for v in sh.T[name] if v]
    return repr((frames, domains, guests, flights, offers, sorted(b.forged))).encode()


def explore(depth: int = DEPTH, size: Size = SMALL, seconds: float | None = None) -> Result:
    """Breadth first to so many actions from the start."""
    rules = rules_for(size)
    result = Result(depth)
    begin = time.perf_counter()
    first = start(rules)
    seen = {canonical(first)}
    level: list[tuple[bytes, tuple[Action, ...]]] = [(freeze(first), ())]
    result.by_depth.append(1)
    for _ in range(depth):
        following: list[tuple[bytes, tuple[Action, ...]]] = []
        for blob, tail in level:
            if seconds is not None and time.perf_counter() - begin > seconds:
                result.complete = False
                break
            bench = _at(blob, tail)
            todo = actions(bench)
            for i, action in enumerate(todo):
                if i:
                    bench = _at(blob, tail)
                result.actions += 1
                try:
                    act(bench, action)
                    key = canonical(bench)
                    if key in seen:
                        continue
                    bench.check_claims()
                except Mismatch as error:
                    result.failure = "\n".join([f"{error.what} after {(*tail, action)}", *dump(error.places)])
                    break
                seen.add(key)
                following.append((blob, (*tail, action)) if bench.flights else (freeze(bench), ()))
            if result.failure:
                break
        result.by_depth.append(len(following))
        level = following
        if result.failure or not result.complete:
            break
    result.states = len(seen)
    result.seconds = time.perf_counter() - begin
    return result


def _at(blob: bytes, tail: tuple[Action, ...]) -> Bench:
    bench = thaw(blob)
    every, bench.full_every = bench.full_every, 0
    for action in tail:
        act(bench, action)
    bench.full_every = every
    return bench


if __name__ == "__main__":
    import sys

    print(explore(int(sys.argv[1]) if len(sys.argv) > 1 else DEPTH).text())

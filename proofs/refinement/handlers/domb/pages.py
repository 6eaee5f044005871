"""DomB's kernel below the libraries: contiguous foreign pages, and pages that it shares.

`MiniOs` must refine `build_map`, `build_unmap`, `channel_share`, `channel_withdraw`. Hypercalls are contracts: setting an
entry may fail, no grant may be free, and a grant to revoke may be in use by a process that has mapped it. Two pages
each time, with another allocation beside them. The other handlers assume these results about the kernel.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb.minios import Area, MiniOs
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.pagetables import PTE_P, PTE_RW
from bulkhead.proofs.refinement.handlers.domb.connection import OfferRun
from bulkhead.proofs.refinement.handlers.domb.run import DOM0, DOMB, DOMB_SPACE, DombRun, member
from bulkhead.proofs.symbolic.engine import Int, number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, And, Not, Or, boolean, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

GUEST, BUSY_SLOT, SLOTS, OWN = variable("guest", bits=15), 1, 6, 6
WINDOW, TABLE = 1 << 30, 1 << 12


class Kernel(MiniOs):
    """The kernel itself, on a small memory, with the hypercalls by contract."""

    def __init__(self, run: DombRun) -> None:
        self.run = run
        self.ram, self.demand = Area(OWN), Area(SLOTS)
        self.demand.used[BUSY_SLOT] = self.ram.used[0] = 1
        self.late = []
        pages: Any = [SimpleNamespace(mfn=i, data=b"what it held") for i in range(OWN)]
        self.pfn_of = {page.mfn: i for i, page in enumerate(pages)}
        self.layout: Any = SimpleNamespace(
            pages=pages, window_va=lambda i: WINDOW + (i << 12), window_maddr=lambda i: TABLE + 8 * i
        )
        self.entries: dict[int, int] = {}  # used slots -> translation
        self.flushed = True
        self.granted: dict[int, int] = {}  # references -> pages
        self.next_ref, self.failed = 8, False
        self.freed: list[int] = []

    # Foreign pages.

    def mmu_update(self, ptr: int, val: Any, foreigndom: Any) -> int:
        slot = (ptr - TABLE) >> 3
        self.run.claim(
            "mmu_update", "the entry is in the row that was taken", self.demand.used[slot] == 1 and slot != BUSY_SLOT
        )
        if not val:
            t = self.entries.pop(slot, None)
            self.flushed = False
            if t is not None:
                self.run.follow("build_unmap", {"t": constant(t)})
            return 0
        if self.run.engine.choose("the entry is not set"):
            self.failed = True
            return -abi.EINVAL
        t, f = slot, val >> 12
        self.run.claim("mmu_update", "of the domain that was named", eq(number(foreigndom), GUEST))
        self.run.claim("mmu_update", "present, and writable if it is asked for", val & (PTE_P | PTE_RW) == PTE_P | PTE_RW)
        self.run.knows_translation(constant(t))
        self.run.follow("build_map", {"f": constant(f), "t": constant(t), "nil": variable("nil")})
        self.entries[slot] = t
        return 0

    def mmuext(self, cmd: int, arg1: int = 0, arg2: int = 0, foreigndom: int = abi.DOMID_SELF) -> int:
        if cmd == abi.MMUEXT_TLB_FLUSH_LOCAL:
            self.flushed = True
            self.run.follow("flush_tlb", {"d": DOMB})
        return 0

    # Own pages.

    def grant_access(self, domid: Any, frame: Any, readonly: bool) -> int:
        if self.run.engine.choose("no reference left"):
            self.failed = True
            raise KernelError(abi.ENOSPC)
        self.next_ref += 1
        run, f, r = self.run, constant(frame.mfn), constant(self.next_ref)
        run.claim("share", "a page is granted that holds nothing of before", frame.data is None)
        run.claim("share", "with whom it was asked for", And(eq(number(domid), DOM0), boolean(not readonly)))
        run.follow("channel_share", {"f": f, "r": r})
        self.granted[self.next_ref] = frame.mfn
        return self.next_ref

    def end_access(self, ref: int) -> bool:
        run, f = self.run, constant(self.granted[ref])
        if run.engine.proves(eq(run.state.at("channel.link"), member("Link", "linked"))):
            run.follow("hang_up")
        used = run.engine.choose(f"grant {ref} is in use")
        run.given({"status.writing": lambda d, r: boolean(used), "in use" if used else "not in use": lambda: TRUE})
        run.follow("channel_withdraw", {"f": f}, "EBUSY" if used else "okay")
        if not used:
            del self.granted[ref]
        return not used

    def free_page(self, frame: Any) -> None:
        self.run.claim(
            "free", "nobody has it granted any more", Not(self.run.state.at("ring_page.granted", constant(frame.mfn)))
        )
        self.run.claim("free", "once", frame.mfn not in self.freed)
        self.freed.append(frame.mfn)
        super().free_page(frame)


class MapRun(DombRun):
    """A guest with pages is under construction."""

    def __init__(self) -> None:
        super().__init__()
        self.given(
            {
                "job.stage": lambda: member("Stage", "populated"),
                "job.guest": lambda: GUEST,
                "translation.present": lambda t: FALSE,
                "translation.cached": lambda t: FALSE,
                "frame.use": lambda f: member("Use", "ram"),
                "frame.owner": lambda f: GUEST,
                "frame.held": lambda f: TRUE,
            }
        )
        # Invariant: the guest under construction exists.
        self.engine.assume(Not(eq(self.state.at("domain.phase", GUEST), member("Phase", "absent"))))
        self.engine.assume(And(Not(eq(GUEST, DOMB)), Not(eq(GUEST, DOM0)), eq(self.state.at("space_of", DOMB_SPACE), DOMB)))


def foreign(run: MapRun) -> None:
    """`map_frames_ex`, then `unmap_frames` of its result."""
    os = Kernel(run)
    guest: Any = Int(GUEST)
    addr, errors = os.map_frames_ex((100, 101), guest, True)
    first = (addr - WINDOW) >> 12
    run.claim(
        "map",
        "each error stands for an entry that is not set",
        [not e for e in errors] == [first + i in os.entries for i in (0, 1)],
    )
    run.claim("map", "the row is its own", bytes(os.demand.used) == _used(BUSY_SLOT, first, first + 1))
    free = WINDOW + ((SLOTS - 1) << 12)
    for wrong in ((addr, 0), (addr, SLOTS), (addr + 1, 1), (free, 1), (WINDOW + (SLOTS << 12), 1)):
        before = dict(os.entries)
        try:
            os.unmap_frames(*wrong)
        except KernelError:
            run.claim("unmap", "what is no row is left alone", os.entries == before)
        else:
            run.claim("unmap", "what is no row is refused", False)
    os.unmap_frames(addr, 2)
    run.claim("unmap", "no entry is left", not os.entries)
    run.claim("unmap", "nor in a TLB, before the row is given out again", os.flushed)
    run.claim("unmap", "only that row is free again", bytes(os.demand.used) == _used(BUSY_SLOT))
    maps = [
        Or(run.state.at("translation.present", t), run.state.at("translation.cached", t))
        for t in run.state.elements["Translation"]
    ]
    run.claim("unmap", "by the rules DomB maps nothing", Not(Or(maps)))


def _used(*slots: int) -> bytes:
    return bytes(int(i in slots) for i in range(SLOTS))


class ShareRun(OfferRun):
    """A channel is being offered: its port exists."""

    def begin(self) -> None:
        super().begin()
        self.given({"channel.link": lambda: member("Link", "linked"), "job.stage": lambda: member("Stage", "no_request")})


def shared(run: ShareRun) -> None:
    """`share`; on success `unshare`; then `retry_late` while another party may still map the pages."""
    os = Kernel(run)
    try:
        frames, refs = os.share(0, 2, True)
    except KernelError:
        run.claim("share", "something failed", os.failed)
    else:
        run.claim("share", "nothing failed", not os.failed)
        run.claim("share", "each page has its reference", [os.granted[r] for r in refs] == [f.mfn for f in frames])
        run.claim("share", "they follow each other", frames[0].mfn + 1 == frames[1].mfn)
        for frame, ref in zip(frames, refs, strict=True):
            os.unshare(frame, ref)
    _kept(run, os)
    left = os.retry_late()
    run.claim("retry", "it says how much is left", left == len(os.late))
    _kept(run, os)


def _kept(run: ShareRun, os: Kernel) -> None:
    """A page that is still granted is deferred, under its reference; every other one is free."""
    late = {ref: frame.mfn for ref, frame in os.late}
    run.claim("unshare", "what somebody still maps is kept aside, and nothing else", late == os.granted)
    free = [i for i in range(OWN) if not os.ram.used[i]]
    run.claim("unshare", "all other pages are free", free == [i for i in range(1, OWN) if i not in late.values()])


__all__ = ["Kernel", "MapRun", "ShareRun", "foreign", "shared"]

"""Building, sealing, failing: refinement of `build_create` to `build_undo` by `builder.build` and `XcDom.undo`.

Contracts: the parser, the layout, the page tables' content and the layers below the libraries (below.py). A kernel of two
pages and a ramdisk of one, mapped two pages at a time, so that loops run more than once; the guest's memory size
and its frames are arbitrary. After a failure at any call, the rollback may fail too, and is retried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from bulkhead.impl.domb import builder, layout
from bulkhead.impl.domb.elf import ElfError, Image, LoadSegment
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.handlers.domb.below import (
    DISK_BYTE,
    FRAMES,
    GUEST,
    KERNEL_BYTE,
    LIFE,
    PAGE,
    TABLE,
    Area,
    Below,
)
from bulkhead.proofs.refinement.handlers.domb.run import DOM0, DOMB, DOMB_SPACE, DombRun, member
from bulkhead.proofs.refinement.handlers.domb.words import Number, Opaque, any_text, length
from bulkhead.proofs.refinement.handlers.path import standing_in
from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, And, Not, Term, eq
from bulkhead.proofs.symbolic.terms import number as constant

BASE: Final = 0xFFFFFFFF80000000
START: Final = 1  # the kernel's first page
HYPERCALLS: Final = 2  # the page that Xen fills (hypercall page)
LOADED: Final = KERNEL_BYTE * (PAGE + 100)
IMAGE: Final = Image(
    (LoadSegment(BASE + START * PAGE, LOADED, 2 * PAGE - 8),),
    virt_base=BASE,
    virt_entry=BASE + START * PAGE,
    virt_hypercall=BASE + HYPERCALLS * PAGE,
    virt_kstart=BASE + START * PAGE,
    virt_kend=BASE + 3 * PAGE,
    init_p2m=None,
    mod_start_pfn=False,
    guest_os="test",
)
DISK: Final = DISK_BYTE * 4000


class Span:
    """`range` of a symbolic number."""

    def __init__(self, count: Any) -> None:
        self.count = count


def spanned(*bounds: Any) -> Any:
    """`range`, also of a symbolic number."""
    if len(bounds) == 1 and isinstance(bounds[0], Int):
        return Span(bounds[0])
    if any(isinstance(bound, Int) for bound in bounds):
        raise Unsupported("a range with symbolic bounds")
    return range(*bounds)


class BuildRun(DombRun):
    """A run at the start of a build: its files have been read, and there is no guest."""

    layout_pages = 0

    def __init__(self) -> None:
        super().__init__()
        self.given(
            {
                "job.stage": lambda: member("Stage", "fetching"),
                # Invariants: DomB maps only pages of the guest under construction, and there is none.
                "translation.present": lambda t: FALSE,
                "translation.cached": lambda t: FALSE,
                "special": lambda d, s: FALSE,
                "buffer.used": lambda b: TRUE,
                "buffer.checked": lambda b: FALSE,
                "buffer.bytes": lambda b: b,
                # The heap's frames that Xen will find are free.
                "frame.use": lambda f: member("Use", "free"),
                "past": lambda e: FALSE,
            }
        )


def _standing_in(below: Below, run: BuildRun, disk: bytes) -> tuple[tuple[object, str, object], ...]:
    def looked_at(b: int, fails: bool) -> None:
        """A buffer has been checked, and is acceptable or not."""
        good = run.state.at("acceptable", constant(b))
        run.engine.assume(Not(good) if fails else good)
        run.follow("build_check", {"b": constant(b)}, "ENOEXEC" if fails else OKAY)
        if fails:
            raise ElfError("cannot be loaded")

    def parse(raw: bytes) -> Image:
        looked_at(0, below.fails("the kernel is none", abi.EINVAL))
        return IMAGE

    def plan(image: Image, ramdisk: int, pages: Any) -> layout.Layout:
        looked_at(1, below.fails("it does not fit", abi.EINVAL))
        made = layout.plan(image, ramdisk, 1024)
        # The frame list has one entry per page of the guest; by the layout's contract everything is within these pages.
        run.engine.assume(number(pages) >= run.layout_pages)
        return replace(made, nr_pages=pages)

    made = layout.plan(IMAGE, len(disk), 1024)
    run.layout_pages = made.segments["bootstack"].first + 1
    below.kernel_frames = range(FRAMES + START, FRAMES + START + made.segments["kernel"].npages)
    below.root_frame = FRAMES + made.root
    below.tables = FRAMES + made.segments["pagetables"].first
    return (
        (builder, "parse", parse),
        (builder, "plan", plan),
        (builder, "table_pages", lambda plan, mfns: {pfn: b"T" * PAGE for pfn in plan.tables.values()}),
        (builder, "U64", Number(8)),
        (abi, "U16", Number(2)),
        (abi, "U32", Number(4)),
        (builder, "range", spanned),
        (builder, "len", length),
        (builder, "CHUNK", 2),
        *below.standing_in(),
    )


def build(run: BuildRun) -> None:
    """`builder.build`: every call may fail."""
    below = Below(run)
    pages = run.argument("pages", 32)
    handle = bytes(16)
    cmdline = any_text("command line", 4000)
    request = builder.Request(b"file", DISK, pages, cmdline, 0, 0, handle)  # type: ignore[arg-type]
    fits = And(cmdline.length <= 1023, Not(cmdline.has(b"\0")))
    fits = And(fits, number(pages) >= builder.MIN_PAGES, number(pages) <= builder.MAX_PAGES)

    def on_step(name: str, what: str) -> None:
        if name == "seal" and below.fails("the hook stops the build", abi.EBUSY):
            raise OsError(abi.EBUSY)

    with standing_in(*_standing_in(below, run, DISK)):
        try:
            guest = builder.build(below, request, on_step)
        except builder.BuildError as error:
            _failed(run, below, error, fits)
            return
    run.claim("a sealed guest", "its size and its command line are what can be given", fits)
    _sealed(run, below, guest, pages)


def _sealed(run: BuildRun, below: Below, guest: builder.Guest, pages: Int) -> None:
    """The guest is handed over: none of its pages is mapped, they contain the files, and the answer names it."""
    run.follow("build_seal")
    claims = [
        ("nothing failed that is passed over", TRUE if not below.failed else FALSE),
        ("no handle is left open", TRUE if not below.open_files else FALSE),
        ("nothing is left mapped", TRUE if not below.areas else FALSE),
        ("the guest stands", TRUE if below.existing else FALSE),
        ("its tables are pinned, its registers set", TRUE if below.pinned and below.started_at else FALSE),
        ("it is paused, and was never started", run.state.at("domain.paused", GUEST)),
        ("it is as large as was asked for", eq(number(guest.pages), number(pages))),
        ("that is what it was given", eq(number(below.pages), number(pages))),
        ("the answer names it", eq(number(guest.domid), GUEST)),
    ]
    console, xenstore = below.entry(0), below.entry(1)
    if console is None or xenstore is None:
        raise Unsupported("a guest without reserved grants")
    said = below.said
    assert said is not None and isinstance(guest.console_mfn, Opaque) and isinstance(guest.store_mfn, Opaque)
    store_port, console_port = below.ports
    for name, told in (("the answer", guest), ("start_info", said)):
        ports = (told.console_port, told.store_port) if isinstance(told, builder.Guest) else _said_ports(said)
        claims += [
            (f"{name}: the console's page", eq(told.console_mfn.element, console[2])),
            (f"{name}: XenStore's page", eq(told.store_mfn.element, xenstore[2])),
            (f"{name}: the console's port", eq(number(ports[0]), console_port)),
            (f"{name}: XenStore's port", eq(number(ports[1]), store_port)),
        ]
    wanted = _loaded()
    for page, content in wanted.items():
        found = below.content.get(FRAMES + page)
        same = found == content or (page == HYPERCALLS and found == b"?" * PAGE)
        claims.append((f"page {page} holds what was read for it", TRUE if same else FALSE))
    for name, (_, _, frame) in (("console", console), ("XenStore", xenstore)):
        clear = below.content.get(frame.args[0]) == bytes(PAGE)
        claims.append((f"the page for the {name} is clear", TRUE if clear else FALSE))
    info = FRAMES + layout.plan(IMAGE, len(DISK), 1024).segments["start_info"].first
    claims.append(("start_info lies in a page of its own", TRUE if below.content.get(info) == b"S" * PAGE else FALSE))
    run.prove("a sealed guest", claims)
    run.follow("build_finish")


def _said_ports(said: Any) -> tuple[Any, Any]:
    return said.console_evtchn, said.store_evtchn


def _loaded() -> dict[int, bytes]:
    """Pages of the kernel and of the ramdisk, by the simplest reading of the image."""
    kernel = LOADED.ljust(2 * PAGE, b"\0")
    pages = {START + i: kernel[i * PAGE : (i + 1) * PAGE] for i in range(2)}
    return pages | {START + 2: DISK.ljust(PAGE, b"\0")}


def _failed(run: BuildRun, below: Below, error: builder.BuildError, fits: Term) -> None:
    """An error: the build is rolled back, or a later `left.undo()` does the rest."""
    run.claim("a failed build", "there is a reason", TRUE if below.failed else Not(fits))
    run.claim("a failed build", "it says why", error.errno == (below.reason or abi.EINVAL))
    run.claim("a failed build", "no handle is left open", not below.open_files)
    if not below.existing and error.left is None:
        run.claim("a failed build", "nothing is left mapped", not below.areas)
        run.follow("build_give_up") if run.engine.proves(run.stage_is("fetching")) else run.claim(
            "a failed build", "it is undone by the rules", run.stage_is("no_request")
        )
        return
    if error.left is None:
        run.claim("a failed build", "a half-built guest is left, and nobody knows", False)
        return
    below.fail_build()
    _again(run, below, error.left)


def _again(run: DombRun, below: Below, left: Any) -> None:
    """The rollback is retried, and now nothing fails."""
    below.failing = False
    run.claim("undo", "it says that nothing is left", left.undo())
    left.release()
    run.claim("undo", "nothing is left mapped, nobody is left", not below.areas and not below.existing)
    run.claim("undo", "no handle is left open", not below.open_files)
    run.claim("undo", "the rules say so too", run.stage_is("no_request"))


class UndoRun(DombRun):
    """A run after a failed build: DomB may still map one page of the guest, and its grant table."""

    def __init__(self) -> None:
        super().__init__()
        self.page, self.table = self.engine.choose("a page is mapped"), self.engine.choose("the table is mapped")
        guest, t0 = GUEST, constant(0)
        mapped = TRUE if self.page else FALSE
        special = member("Special", TABLE)
        self.given(
            {
                ("page" if self.page else "no page"): lambda: mapped,
                ("table" if self.table else "no table"): lambda: mapped,
                "job.stage": lambda: member("Stage", "failing"),
                "job.guest": lambda: guest,
                "translation.present": lambda t: And(eq(t, t0), mapped),
                "translation.cached": lambda t: And(eq(t, t0), mapped),
                "translation.space": lambda t: DOMB_SPACE,
                "translation.path": lambda t: member("Path", "cpu"),
                "translation.origin": lambda t: member("Origin", "foreign"),
                "translation.frame": lambda t: constant(FRAMES),
                "frame.owner": lambda f: guest,
                "special": lambda d, s: And(eq(d, guest), eq(s, special), TRUE if self.table else FALSE),
                "domain.life": lambda d: LIFE,
            }
        )
        self.knows_translation(t0)
        # Invariant: the guest under construction exists, and it is not a service domain.
        self.engine.assume(And(self.state.at("domain.phase", guest) != member("Phase", "absent")))
        self.engine.assume(And(Not(self.state.at("service", guest)), guest != DOMB, guest != DOM0))


def undo(run: UndoRun) -> None:
    """`XcDom.undo`, called later by the service, with closed handles."""
    below = Below(run)
    dom = builder.XcDom(below, builder.Request(b""), lambda step, what: None)
    below.existing, below.together = True, False
    dom.domid = Int(GUEST)  # type: ignore[assignment]
    if run.page:
        dom.mappings.append((below._place(Area(pages=[(FRAMES, constant(0))])), 1))
    if run.table:
        dom.mappings.append((below._place(Area(special=TABLE)), 1))
    with standing_in(*below.standing_in()):
        done = dom.undo()
        run.claim("undo", "it says whether anything is left", done == (not below.areas and not below.existing))
        run.claim("undo", "by the rules, too", run.stage_is("no_request") if done else run.stage_is("failing"))
        if not done:
            _again(run, below, dom)
            return
        dom.release()
    run.claim("undo", "no handle is left open", not below.open_files)


__all__ = ["BuildRun", "UndoRun", "build", "undo"]

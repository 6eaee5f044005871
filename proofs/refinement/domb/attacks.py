"""Attacks on DomB's rules under a fault, run on the implementation with the same fault.

`REPLAYED` are found by search: the events of the trace are executed as system calls of a process and as DomB's own steps, on
a booted machine; then the claim's violation is checked. `STAGED` are scripts, executed in lockstep with the faulty rules
(staged.py). `NOT_REPLAYED` lists the other faults with the reason. Not here: finding attacks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.libs.vchan import client_init
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.proofs.refinement.domb import staged

REPLAYED: Final = {  # fault of the rules -> the violated claim, and the fault of the implementation
    "path_not_confined": ("files_stay_in_export", "path_unchecked"),
    "ring_not_cleared": ("rings_show_no_guest", "page_not_cleared"),
}


@dataclass(frozen=True)
class Staging:
    """The claim that falls, what tools do, and the faults of the implementation that mean the same as that of the rules."""

    claim: str
    scenario: Callable[[staged.Scene], None]
    faults: tuple[tuple[str, str, str], ...]  # where, which piece of text, and what instead
    ahead: tuple[str, ...] = ()  # places where the machine is ahead of the rules when the claim falls: the rest of one call


XCDOM, SERVICE = "domb/builder:XcDom.", "domb/service:BuilderService."
RING, CONS = "self.chan.reader.ring", "self.chan.reader.cons"
STAGED: Final = {  # fault of the rules -> how it is staged
    "seal_with_mappings": Staging(
        "builder_maps_by_right",
        staged.build,
        ((XCDOM + "unmap_all", "while self.mappings:", "while len(self.mappings) > 1:"),),
    ),
    "seal_with_special_pages": Staging(
        "special_pages_by_right",
        staged.build,
        (
            (
                XCDOM + "boot_image",
                "si.shared_info_page())\n        self.unmap_all()",
                "si.shared_info_page()); self.mappings.clear()",
            ),
        ),
    ),
    "undo_with_mappings": Staging(
        "builder_maps_by_right",
        staged.build_that_fails,
        ((XCDOM + "undo", "if fm.xenforeignmemory_unmap(self.fmem, addr, count)]", "if False]"),),
    ),
    "created_before_checked": Staging(
        "checked_before_created",
        staged.build,
        (("domb/builder:build", "dom.parse_image()\n        dom.create()", "dom.create()\n        dom.parse_image()"),),
        ahead=("domain[2]", "table of domain 2"),
    ),
    "check_skipped": Staging(
        "checked_bytes_stay",
        staged.build_from_garbage,
        (("domb/elf:_image", '_text(notes, LOADER) != "generic"', "False"),),
        ahead=("domain[2]", "table of domain 2"),
    ),
    "buffer_not_cleared": Staging(
        "loaded_was_read_for_the_guest",
        staged.build_twice,
        (
            (
                SERVICE + "_build",
                "yield from fetch(wanted.kernel)",
                'vars(self).setdefault("kept", (yield from fetch(wanted.kernel)))',
            ),
        ),
    ),
    "port_for_another": Staging(
        "ports_wait_for_dom0", staged.build, ((XCDOM + "create", "self.domid, request.console_domid)", "self.domid, 5)"),)
    ),
    "seed_loaded_page": Staging(
        "seeded_pages_hold_nothing_loaded",
        staged.build,
        ((XCDOM + "gnttab_init", "self.mfns[pfn]", 'self.mfns[pfn if ref else self.layout.segments["kernel"].first]'),),
        ahead=("special pages that DomB maps",),
    ),
    "seed_for_another": Staging(
        "seeded_for_dom0",
        staged.build,
        ((XCDOM + "gnttab_init", "abi.U16.pack(backend)", "abi.U16.pack(backend if ref else 1)"),),
        ahead=("special pages that DomB maps",),
    ),
    "seeded_in_vain": Staging(
        "seeded_for_dom0",
        staged.build,
        ((XCDOM + "gnttab_init", "abi.U16.pack(abi.GTF_PERMIT_ACCESS)", "abi.U16.pack(abi.GTF_PERMIT_ACCESS * ref)"),),
        ahead=("special pages that DomB maps",),
    ),
    "untold_ended": Staging(
        "only_told_guests_are_ended", staged.end_untold, ((SERVICE + "_control", " or not built.told", ""),)
    ),
    "untold_started": Staging(
        "only_told_guests_run", staged.start_untold, ((SERVICE + "_control", " or not built.told", ""),)
    ),
    "checked_in_the_ring": Staging(
        "only_built_guests_end",
        staged.destroy_a_stranger,
        (
            (
                SERVICE + "_control",
                "self.guests.get(domid)",
                f"self.guests.get(int.from_bytes(self.os.load({RING}.data + ({CONS} - 2 & {RING}.size - 1), 2), 'little'))",
            ),
            (SERVICE + "_same", "info is None or info.handle != self.guests[domid].guest.handle", "info is None"),
        ),
    ),
}
COPY: Final = (
    "messages are copied when they are taken, and whoever uses one has the copy only: there is no way to the ring to misuse"
)
PROVED: Final = "no attack exists: with the fault the claim is proved from one more invariant (beyond.rules)"
NOT_REPLAYED: Final = {
    "path_checked_in_the_ring": COPY,
    "loaded_from_the_ring": COPY,
    "rights_by_id": PROVED,
    "seed_foreign_page": PROVED,
    "right_is_kept": "the right is a ghost: in the implementation it is mappings, and faults of these are staged",
}


@dataclass
class Outcome:
    """The result of each event (empty: success), and the attacker's gain that the claim forbids."""

    answers: list[tuple[str, str]] = field(default_factory=list)
    got: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Did the attack succeed?"""
        return bool(self.got)


class Stage:
    """A booted machine on which a trace is executed. `folder` gets the exported files, and a secret beside them."""

    def __init__(self, system: System, trace: Trace, folder: Path) -> None:
        self.system, self.trace = system, trace
        self.root = folder / "exported"
        self.root.mkdir()
        (folder / "secret").write_bytes(b"the secret of Dom0")
        (self.root / "kernel").write_bytes(build_kernel())
        self.machine = BootedSystem("disaggregated", self.root)
        self.guest = self.machine.create("victim", p.CreateRequest("kernel", "", 128))
        self.out = Outcome()

    def _initial(self, func: str, index: int) -> int:
        return self.trace.initial[list(self.system.funcs).index(func)][index]

    def nothing(self) -> None:
        """A step that is part of the step before or after it."""

    def proxy_opens(self) -> None:
        """Ask the proxy for the file that the message in the ring names, inside its exported directory or not."""
        inside = self._initial("exported", self._initial("ring.name", 0))
        proxy = FileProxy(self.root)
        try:
            number = proxy.open(b"kernel" if inside else b"../secret")
            real = Path(os.readlink(f"/proc/self/fd/{proxy.files[number]}"))
            if not real.is_relative_to(self.root.resolve()):
                self.out.got.append(f"the proxy has opened {real.name} outside its directory")
        finally:
            proxy.close_all()

    def domb_notes(self) -> None:
        """No channel is open, and DomB queries Xen about the guest: the answer is in one of its own pages."""
        service = self.machine.service
        assert service is not None
        self.machine.builder.close()
        service.hang_up()
        xch = ctrl.xc_interface_open(service.os)
        assert xch is not None and ctrl.xc_domain_getinfo(xch, self.guest) is not None
        ctrl.xc_interface_close(xch)

    def channel_shares(self) -> None:
        """DomB offers a channel; a process maps its pages, and searches them for the guest's handle."""
        assert self.machine.service is not None
        self.machine.service.offer()
        offer = self.machine.offered()
        assert offer is not None
        rogue = self.machine.spawn("rogue")
        chan = client_init(rogue, offer)
        handle = self.machine.xen.domains[self.guest].handle
        for addr, count in chan.areas:
            if handle in rogue.load(addr, count << 12):
                self.out.got.append("a page of the ring holds what Xen told DomB about the guest")
        chan.close()


def run_attack(trace: Trace, system: System, folder: Path) -> Outcome:
    """Execute the events of a trace on the implementation; ValueError for an event without an equivalent."""
    stage = Stage(system, trace, folder)
    calls: dict[str, Callable[[], None]] = {
        "proxy_open": stage.nothing,
        "proxy_open.open": stage.proxy_opens,
        "domb_notes": stage.domb_notes,
        "channel_open": stage.nothing,
        "channel_share": stage.channel_shares,
    }
    for event in trace.events:
        call = calls.get(event.label)
        if call is None:
            raise ValueError(f"nothing stands for the step `{event.label}`")
        try:
            call()
            stage.out.answers.append((event.label, ""))
        except OsError as error:
            stage.out.answers.append((event.label, f"errno {error.errno}"))
    return stage.out

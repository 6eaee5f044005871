"""Attacks found in DomB's rules under a fault, run on the implementation with the same fault laid over it.

`REPLAYED` maps faults of the rules to the same faults in `proofs/faults/catalogue_domb.py`; `NOT_REPLAYED` lists the
others with the reason. The events of the trace are executed as system calls of a process and as DomB's own steps, on a
booted machine; then the claim's violation is checked. Not here: finding attacks.
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

REPLAYED: Final = {  # fault of the rules -> the violated claim, and the fault of the implementation
    "path_not_confined": ("files_stay_in_export", "path_unchecked"),
    "ring_not_cleared": ("rings_show_no_guest", "page_not_cleared"),
}
TRIED: Final = "no attack was found within 45 s"
BUILT: Final = "it needs a guest that is built step by step, which nothing here replays yet"
INVARIANT: Final = "an invariant falls, and no theorem in a few steps"
NOT_REPLAYED: Final = {
    "path_checked_in_the_ring": TRIED,
    "created_before_checked": TRIED,
    "rights_by_id": TRIED,
    "checked_in_the_ring": TRIED,
    "untold_started": TRIED,
    "port_for_another": TRIED,
    "seed_for_another": BUILT,
    "seed_foreign_page": BUILT,
    "seed_loaded_page": BUILT,
    "seeded_in_vain": BUILT,
    "seal_with_mappings": BUILT,
    "loaded_from_the_ring": BUILT,
    "undo_with_mappings": BUILT,
    "right_is_kept": "rights are ghosts: the implementation has no such thing to keep",
    "buffer_not_cleared": INVARIANT,
    "seal_with_special_pages": INVARIANT,
    "check_skipped": "which bytes are acceptable is any set in the rules; here a parser decides, in many lines",
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

"""Runs attacks found in the rules on the implementation: does a Dom0 process really read the guest's secret?

A trace's initial state is rebuilt (guests with pages that hold secrets, processes with their user ids), then its events are
executed as system calls. If Dom0 has no privcmd device and no privilege, the same calls fail, each with its errno.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bulkhead.impl.dom0.areas import PROT_READ, PROT_WRITE
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.privcmd import Privcmd
from bulkhead.impl.dom0.process import MAP_SHARED, Fault, Process
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.machine import Xen
from bulkhead.impl.xen.memory_op import populate_page
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_P, PTE_USER
from bulkhead.impl.xen.pv_build import build
from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.model.world import State

DEVICES = {"monolithic": frozenset({"gntdev", "gntalloc", "privcmd"}), "disaggregated": frozenset({"gntdev", "gntalloc"})}
PRIVILEGED = frozenset({"monolithic"})  # the system in which Dom0 is the control domain
VPN = 0x40000
Answer = tuple[str, int]  # the call, and 0 or its errno


@dataclass
class Outcome:
    """The answer of each call, and the bytes that the process read through the attack's mappings."""

    answers: list[Answer] = field(default_factory=list)
    stolen: dict[int, bytes] = field(default_factory=dict)  # rule frame -> the bytes read
    secrets: dict[int, bytes] = field(default_factory=dict)
    raw: int = 0  # 0, or the errno of a foreign mapping without a device

    @property
    def succeeded(self) -> bool:
        """Did a process read a guest's secret?"""
        return any(self.secrets.get(f) == data for f, data in self.stolen.items())


class Stage:
    """The implementation in a trace's initial state."""

    def __init__(self, system: System, trace: Trace, on: str) -> None:
        self.on = on
        self.system = system
        self.numbers = {name: k for k, name in enumerate(system.funcs)}
        self.xen = Xen(nframes=0x3000, reserved=0x1000, seed=1)
        self.dom0 = self.xen.create_dom0()
        self.kernel = Kernel(self.xen, self.dom0, npages=256, nwindows=1)
        self.domids: dict[int, int] = {trace.world.consts["dom0"]: 0}
        self.frames: dict[int, Frame] = {}
        self.processes: dict[int, Process] = {}
        self.root: dict[int, bool] = {}
        self.files: dict[tuple[int, int], tuple[int, Privcmd]] = {}
        self.out = Outcome()
        self.mapped = 0
        self._build(trace.initial, trace)
        # After disaggregation the builder domain has the privilege that Dom0 had during this set-up.
        self.dom0.is_privileged = on in PRIVILEGED

    def _value(self, state: State, func: str, index: int) -> str:
        value = state[self.numbers[func]][index]
        sort = self.system.funcs[func].sort
        return self.system.enums[sort][value] if sort in self.system.enums else str(value)

    def _build(self, state: State, trace: Trace) -> None:
        dom0 = trace.world.consts["dom0"]
        for d in range(trace.world.sizes["Domain"]):
            if d != dom0 and self._value(state, "domain.phase", d) == "running":
                body = abi.CREATEDOMAIN.pack(0, bytes(16), 0, 0, 1, 1023, 3, 1, 2, 0, 0, 0, 0)
                _, raw = self.kernel.domctl(abi.DOMCTL_CREATEDOMAIN, 0, body)
                domid = int(abi.U16.unpack_from(raw, 8)[0])
                self.domids[d] = domid
                self.kernel.domctl(abi.DOMCTL_MAX_MEM, domid, abi.U64.pack(64 * 4))
                self.kernel.domctl(abi.DOMCTL_MAX_VCPUS, domid, abi.U32.pack(1))
                build(self.xen, self.xen.domains[domid], 2, 1)
                self.kernel.domctl(abi.DOMCTL_UNPAUSEDOMAIN, domid)
        for f in range(trace.world.sizes["Frame"]):
            owner = state[self.numbers["frame.owner"]][f]
            if self._value(state, "frame.use", f) == "ram" and owner in self.domids and owner != dom0:
                frame = populate_page(self.xen, self.xen.domains[self.domids[owner]])
                if frame is None:
                    raise MemoryError("no page for a guest of the trace")
                secret = f"secret of frame {f}".encode().ljust(32, b".")
                frame.bytes()[:32] = secret
                self.frames[f] = frame
                self.out.secrets[f] = secret
        for space in range(trace.world.sizes["Space"]):
            if (
                self._value(state, "process.phase", space) == "process_runs"
                and state[self.numbers["space_of"]][space] == dom0
            ):
                self.processes[space] = Process(self.kernel)
                self.root[space] = bool(state[self.numbers["process.root"]][space])

    # Calls of the attack.

    def open_privcmd(self, a: dict[str, int]) -> None:
        """open("/dev/xen/privcmd")."""
        if "privcmd" not in DEVICES[self.on]:
            raise KernelError(abi.ENOENT)
        if not self.root[a["p"]]:
            raise KernelError(abi.EACCES)
        device = Privcmd(self.kernel)
        process = self.processes[a["p"]]
        self.files[a["p"], a["x_x"]] = (process.open(device), device)

    def privcmd_mmapbatch(self, a: dict[str, int]) -> None:
        """mmap() of the device, IOCTL_PRIVCMD_MMAPBATCH_V2, and a load."""
        found = self.files.get((a["p"], a["x"]))
        if found is None:
            raise KernelError(abi.EBADF)
        fd, device = found
        process = self.processes[a["p"]]
        vpn = VPN + self.mapped
        self.mapped += 1
        process.mmap(vpn, 1, PROT_READ | (PROT_WRITE if a["writable"] else 0), MAP_SHARED, fd, 0)
        errors = device.mmapbatch_v2(process.space, self.domids[a["dom"]], vpn << 12, [self.frames[a["f"]].mfn])
        if errors[0]:
            raise KernelError(-errors[0])
        self.out.stolen[a["f"]] = process.space.load(vpn << 12, 32)

    def setuid(self, a: dict[str, int]) -> None:
        """Drop root privileges."""
        self.root[a["p"]] = False

    def raw_mapping(self) -> int:
        """Write a foreign page-table entry without a device, as an unprivileged kernel could try: 0 or an errno."""
        process = next(iter(self.processes.values()))
        frame = next(iter(self.frames.values()))
        owner = frame.owner
        if owner is None:
            raise AssertionError("a guest's page has an owner")
        return -process.space.set_pte(VPN + 64, frame.mfn << 12 | PTE_P | PTE_USER | PTE_A | PTE_D, owner.domid)


def run_attack(trace: Trace, system: System, on: str) -> Outcome:
    """Run a trace found on `system` on an implementation set up as the system `on`."""
    stage = Stage(system, trace, on)
    calls: dict[str, Callable[[dict[str, int]], None]] = {
        "open_privcmd": stage.open_privcmd,
        "privcmd_mmapbatch": stage.privcmd_mmapbatch,
        "setuid": stage.setuid,
    }
    for event in trace.events:
        call = calls.get(event.label)
        if call is None:
            raise ValueError(f"no system call is known for the step `{event.label}`")
        try:
            call(event.args)
            stage.out.answers.append((event.label, 0))
        except KernelError as error:
            stage.out.answers.append((event.label, error.code))
        except Fault:
            stage.out.answers.append((event.label, abi.EFAULT))
    if stage.processes and stage.frames and on not in PRIVILEGED:
        stage.out.raw = stage.raw_mapping()
    return stage.out

"""The reference for each operation of the implementation: the rules, recordings of real Xen, both, or neither.

The operations are taken from the implementation itself: its hypercall table, the commands of each hypercall, the
ioctls of Dom0's devices, and system calls. `RULES` names the rules that a campaign follows for an operation;
`recorded.json` counts its calls in the project's recordings (`python -m tests.compared` counts); `NEITHER` gives the reason
if there is no reference. Not here: the coverage of an operation's answers (coverage.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bulkhead.impl.dom0 import file_calls, gntdev_bsd, ioctl, ioctl_control, memory_calls, reach
from bulkhead.impl.dom0.pipes import Pipe
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.xen import abi, device_model, domctl, hypercall, hypercall_evtchn, hypercall_other, sysctl

RECORDED: Final = Path(__file__).with_name("recorded.json")
GRANT, MEMORY, EVENTS, DOMCTL = "grant_table_op", "memory_op", "event_channel_op", "domctl"
MMU, MMUEXT, VA, VA_OTHER = "mmu_update", "mmuext_op", "update_va_mapping", "update_va_mapping_otherdomain"
SYSTEM_CALL: Final = "system call"
HYPERCALLS: Final[Mapping[int, str]] = {
    abi.HYPERVISOR_MMU_UPDATE: MMU,
    abi.HYPERVISOR_MEMORY_OP: MEMORY,
    abi.HYPERVISOR_UPDATE_VA_MAPPING: VA,
    abi.HYPERVISOR_GRANT_TABLE_OP: GRANT,
    abi.HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: VA_OTHER,
    abi.HYPERVISOR_MMUEXT_OP: MMUEXT,
    abi.HYPERVISOR_EVENT_CHANNEL_OP: EVENTS,
    abi.HYPERVISOR_DOMCTL: DOMCTL,
}
WHOLE: Final = "the whole hypercall"
DEVICES: Final = ("gntdev", "gntalloc", "privcmd", "evtchn", "BSD gntdev")

# System calls that are not methods of a process, by their names here.
FURTHER: Final[Mapping[str, Callable[..., object]]] = {
    "madvise": memory_calls.madvise,
    "mlock": memory_calls.mlock,
    "munlock": memory_calls.munlock,
    "mincore": memory_calls.mincore,
    "msync": memory_calls.msync,
    "userfaultfd": memory_calls.userfaultfd,
    "process_vm_readv": reach.process_vm_readv,
    "process_vm_writev": reach.process_vm_writev,
    "read of /proc/self/mem": reach.read_mem,
    "write of /proc/self/mem": reach.write_mem,
    "ptrace (peek)": reach.peek,
    "ptrace (poke)": reach.poke,
    "vmsplice": Pipe.vmsplice,
    "read of a pipe": Pipe.read,
    "pread, pwrite": file_calls.positioned,
    "lseek": file_calls.lseek,
    "fsync, ftruncate, splice, sendfile": file_calls.fsync,
    "fallocate": file_calls.fallocate,
    "fstat": file_calls.fstat,
    "epoll": file_calls.epoll,
    "fcntl (F_GETFL)": file_calls.getfl,
    "fcntl (F_SETFL)": file_calls.setfl,
    "ioctl of the kernel": file_calls.ioctl,
}

Key = tuple[str, str]  # a family, such as `grant_table_op` or `gntdev`, and the name of one of its operations

# The rules that a campaign follows for the operation.
RULES: Final[Mapping[Key, tuple[str, ...]]] = {
    (GRANT, "map_grant_ref"): ("map_grant_ref",),
    (GRANT, "unmap_grant_ref"): ("unmap_grant_ref",),
    (GRANT, "setup_table"): ("setup_table",),
    (GRANT, "transfer"): ("transfer",),
    (GRANT, "copy"): ("copy",),
    (GRANT, "set_version"): ("set_version_1", "set_version_2"),
    (GRANT, "swap_grant_ref"): ("swap_grant_ref",),
    (MEMORY, "decrease_reservation"): ("decrease_reservation", "decrease_reservation_at"),
    (MEMORY, "populate_physmap"): (
        "populate_physmap",
        "populate_physmap_at",
        "privcmd_populate_physmap",
        "privcmd_populate_physmap_at",
    ),
    (MEMORY, "add_to_physmap"): ("add_to_physmap",),
    (MEMORY, "add_to_physmap_batch"): ("add_to_physmap",),
    (MEMORY, "remove_from_physmap"): ("remove_from_physmap",),
    (EVENTS, "bind_interdomain"): ("evtchn_bind_interdomain",),
    (EVENTS, "close"): ("evtchn_close",),
    (EVENTS, "send"): ("evtchn_send",),
    (EVENTS, "alloc_unbound"): ("evtchn_alloc_unbound", "privcmd_alloc_unbound"),
    (MMU, "normal_pt_update"): ("mmu_update_map", "mmu_update_clear"),
    (DOMCTL, "createdomain"): ("privcmd_createdomain",),
    (DOMCTL, "destroydomain"): ("privcmd_destroydomain", "domain_destroy", "relinquish_resources", "release_mapping"),
    (DOMCTL, "pausedomain"): ("privcmd_pausedomain",),
    (DOMCTL, "unpausedomain"): ("privcmd_unpausedomain",),
    ("gntdev", "map_grant_ref"): ("gntdev_map_grant_ref", "gntdev_map_next_ref"),
    ("gntdev", "unmap_grant_ref"): ("gntdev_unmap_grant_ref",),
    ("gntdev", "set_unmap_notify"): ("gntdev_set_unmap_notify", "gntdev_ring"),
    ("gntdev", "grant_copy"): ("gntdev_copy",),
    ("gntalloc", "alloc_gref"): ("gntalloc_alloc_gref",),
    ("gntalloc", "dealloc_gref"): ("gntalloc_dealloc_gref", "gntalloc_free"),
    ("gntalloc", "set_unmap_notify"): ("gntalloc_set_unmap_notify", "gntalloc_ring"),
    ("privcmd", "mmapbatch_v2"): ("privcmd_mmapbatch",),
    ("privcmd", "restrict"): ("privcmd_restrict",),
    ("evtchn", "bind_interdomain"): ("evtchn_bind",),
    ("evtchn", "bind_unbound_port"): ("evtchn_bind_unbound",),
    ("evtchn", "unbind"): ("evtchn_unbind",),
    ("evtchn", "notify"): ("evtchn_notify",),
    ("evtchn", "reset"): ("evtchn_reset",),
    ("evtchn", "restrict_domid"): ("evtchn_restrict",),
    (SYSTEM_CALL, "open"): ("open_gntdev", "open_gntalloc", "open_privcmd", "open_evtchn"),
    (SYSTEM_CALL, "close"): ("close", "release_file", "evtchn_release"),
    (SYSTEM_CALL, "mmap"): ("gntdev_mmap", "gntalloc_mmap"),
    (SYSTEM_CALL, "munmap"): ("gntdev_munmap", "gntalloc_munmap", "privcmd_munmap"),
    (SYSTEM_CALL, "mprotect"): ("gntalloc_remap",),
    (SYSTEM_CALL, "mremap"): ("gntalloc_remap",),
    (SYSTEM_CALL, "read"): ("evtchn_read",),
    (SYSTEM_CALL, "write"): ("evtchn_write",),
    (SYSTEM_CALL, "poll"): ("evtchn_poll",),
    (SYSTEM_CALL, "store"): ("store",),
    (SYSTEM_CALL, "fork"): ("fork",),
    (SYSTEM_CALL, "exit"): ("exit",),
}

BSD: Final = "a device of BSD: no such Dom0 is recorded, and the rules have Linux's; tests/impl/test_libs.py"
NEITHER: Final[Mapping[Key, str]] = {
    **{
        ("BSD gntdev", name): BSD
        for name in (
            "set_unmap_notify",
            "alloc_gref",
            "dealloc_gref",
            "map_grant_ref",
            "unmap_grant_ref",
            "get_offset_for_vaddr",
        )
    },
}


@dataclass(frozen=True)
class Row:
    """One operation: its rules, its number of recorded calls, and the reason if it has neither."""

    key: Key
    rules: tuple[str, ...]
    recorded: int
    why: str

    @property
    def beside(self) -> str:
        """`rules`, `real Xen`, `both` or `neither`."""
        if self.rules:
            return "both" if self.recorded else "rules"
        return "real Xen" if self.recorded else "neither"


def _named(prefix: str) -> dict[int, str]:
    """The numbers of the interface whose names begin so, with the rest of the name."""
    return {
        value: name[len(prefix) :].lower()
        for name, value in vars(abi).items()
        if name.startswith(prefix) and isinstance(value, int)
    }


def names() -> dict[str, dict[int, str]]:
    """The operations of each hypercall by their numbers, as the implementation dispatches them."""
    pins = {abi.MMUEXT_PIN_L1_TABLE + level: f"pin_l{level + 1}_table" for level in range(4)}
    grant, events, control = _named("GNTTABOP_"), _named("EVTCHNOP_"), _named("DOMCTL_")
    known = domctl.KNOWN | {abi.DOMCTL_GETDOMAININFO, abi.DOMCTL_SET_TARGET}
    return {
        GRANT: {n: grant[n] for n in hypercall.GRANT_OPS},
        MEMORY: _named("XENMEM_"),
        EVENTS: {n: events[n] for n in hypercall_evtchn.SIZES},
        DOMCTL: {n: control[n] for n in known},
        MMU: {
            abi.MMU_NORMAL_PT_UPDATE: "normal_pt_update",
            abi.MMU_MACHPHYS_UPDATE: "machphys_update",
            abi.MMU_PT_UPDATE_PRESERVE_AD: "pt_update_preserve_ad",
            abi.MMU_PT_UPDATE_NO_TRANSLATE: "pt_update_no_translate",
        },
        MMUEXT: _named("MMUEXT_") | pins,
        VA: {0: WHOLE},
        VA_OTHER: {0: WHOLE},
        **{name: {0: WHOLE} for name in others().values()},
    }


def others() -> dict[int, str]:
    """The hypercalls that are not divided into operations, by number."""
    return {n: name for n, name in _named("HYPERVISOR_").items() if n in hypercall.TABLE and n not in HYPERCALLS}


def ioctls() -> dict[str, dict[int, str]]:
    """The ioctls of each device by their numbers."""
    found: dict[str, dict[int, str]] = {device: {} for device in DEVICES}
    prefixes = dict(zip(("GNTDEV_", "GNTALLOC_", "PRIVCMD_", "EVTCHN_", "BSD_"), DEVICES, strict=True))
    for module in (ioctl, ioctl_control, gntdev_bsd):
        for name, value in vars(module).items():
            for prefix, device in prefixes.items():
                if name.startswith(prefix) and isinstance(value, int):
                    found[device][value] = name[len(prefix) :].lower()
    for device in ("gntdev", "gntalloc"):  # one number for both
        found[device][ioctl.SET_UNMAP_NOTIFY] = "set_unmap_notify"
    return found


def system_calls() -> tuple[str, ...]:
    """The system calls of a process, except ioctl, whose families are separate."""
    of_calls = [name for name in vars(Syscalls) if not name.startswith("_") and callable(getattr(Syscalls, name))]
    return (*(name for name in of_calls if name != "ioctl"), Process.fork.__name__, *FURTHER)


def operations() -> tuple[Key, ...]:
    """Every operation of the implementation."""
    families = {**names(), **ioctls()}
    return (
        *((family, name) for family, numbers in families.items() for name in numbers.values()),
        *((SYSTEM_CALL, name) for name in system_calls()),
    )


def recorded() -> dict[Key, int]:
    """The number of recorded calls of each operation."""
    loaded: dict[str, dict[str, int]] = json.loads(RECORDED.read_text())
    return {(family, name): count for family, counts in loaded.items() for name, count in counts.items()}


def table() -> tuple[Row, ...]:
    """One row for each operation."""
    counts = recorded()
    return tuple(Row(key, RULES.get(key, ()), counts.get(key, 0), NEITHER.get(key, "")) for key in operations())


def lines() -> list[str]:
    """A readable summary: the numbers of compared operations, and the others with their reasons."""
    rows = table()
    by = {word: [r for r in rows if r.beside == word] for word in ("both", "rules", "real Xen", "neither")}
    out = [
        f"{len(rows)} operations: {len(by['both'])} compared with the rules and with recordings of real Xen, "
        f"{len(by['rules'])} with the rules only, {len(by['real Xen'])} with real Xen only, "
        f"{len(by['neither'])} with neither:"
    ]
    reasons: dict[str, list[str]] = {}
    for row in by["neither"]:
        reasons.setdefault(row.why or "no reason is given", []).append(" ".join(row.key))
    out += [f"  {', '.join(each)}: {why}" for why, each in reasons.items()]
    out.append("Of Xen's operations, these are not offered (-ENOSYS):")
    absent = [(f"hypercall {n}", why) for n, why in hypercall_other.NOT_OFFERED.items()]
    absent += [(f"sysctl {numbers}", why) for why, numbers in sysctl.NOT_OFFERED.items()]
    absent += [("dm_op, the other operations (-EOPNOTSUPP)", device_model.NOT_OFFERED)]
    absent += [(f"domctl {', '.join(map(str, numbers))}", why) for why, numbers in domctl.NOT_OFFERED.items()]
    out += [f"  {name}: {why}" for name, why in absent]
    out.append("Of Linux's system calls, these are not modelled:")
    return out + [f"  {name}: {why}" for name, why in memory_calls.NOT_MODELLED.items()]


def markdown() -> str:
    """The table of proofs/README.md."""
    out = ["| Operation | Compared with | Rules | Recorded calls |", "|---|---|---|---|"]
    out += [
        f"| {row.key[0]}: {row.key[1]} | {row.beside} | {', '.join(row.rules) or '-'} | {row.recorded or '-'} |"
        for row in table()
    ]
    return "\n".join(out) + "\n"

"""Why neither a campaign nor a recording runs certain lines of the implementation: the reasons, and the places of each.

A place is a file, a function (or a class with its methods), and words of the line, where not all lines of it are meant.
`unrun_lines.py` reports lines without a reason first. Not here: lines that somebody compares.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Final

REASONS: Final[Mapping[str, tuple[str, ...]]] = {
    "the policy of another machine (FLASK, SILO); tests/impl/test_flask.py, test_policies.py, test_hooks.py": (
        "xen/flask.py",
        "xen/xsm.py SiloPolicy",
        "xen/grant_transfer.py _give GNTST_PERMISSION_DENIED",
        "xen/grant_transfer.py _give put_page(frame)",
        "xen/grant_unmap.py unmap_one GNTST_PERMISSION_DENIED",
        "xen/domctl_hardware.py irq_permission return rc",
        "xen/domctl_hardware.py iomem_permission return rc",
        "xen/domctl_hardware.py ioport_permission return rc",
        "xen/sysctl.py _domains continue",
    ),
    "a hardware domain that is translated (PVH Dom0): the rig's is PV; tests/impl/test_translated_callers.py": (
        "xen/physmap.py add_foreign",
        "xen/physmap.py set_foreign",
        "xen/physmap.py unhook put_page",
        "xen/physmap.py _batch return -EOPNOTSUPP",
        "xen/resources.py acquire_resource -EACCES",
        "xen/resources.py acquire_resource preempt",
        "xen/resources.py acquire_resource Preempted",
        "xen/resources.py _hand_out",
        "xen/lifecycle.py _relinquish",
    ),
    "BSD's form of the device: no such Dom0 is recorded; tests/impl/test_process_calls.py, test_libs.py": (
        "dom0/gntdev_bsd.py",
        "dom0/syscalls.py Syscalls.ioctl bsd_ioctl",
    ),
    "the seeded interleaving of unit tests: campaigns have their own": ("xen/scheduler.py",),
    "an assertion, or a message for who uses the implementation in a wrong way": (
        "xen/continuation.py Preemption",
        "xen/domains.py Domain.__repr__",
        "xen/frames.py FrameTable._free raise",
        "xen/frames.py FrameTable.free_xenheap raise",
        "xen/machine.py Xen raise",
        "xen/machine.py run",
        "xen/pv_build.py",
        "xen/maptrack.py live",
        "xen/tlb.py",
        "dom0/process.py AddressSpace._pin",
        "dom0/process.py AddressSpace.pte_slot",
        "dom0/privcmd.py Privcmd.hypercall",
    ),
    "a record, a table or an entry that has outlived what it stands for: no sequence of calls leads there": (
        "xen/grant_unmap.py unmap_one GNTST_BAD_HANDLE",
        "xen/grant_map.py _take_and_map return GNTST_GENERAL_ERROR",
        "xen/lifecycle.py release_mappings continue",
        "xen/pagetables.py _descend return None",
        "xen/pagetables.py walk return None",
    ),
    "the heap is empty at that very moment; tests/impl/test_no_memory.py": (
        "xen/grant_admin.py setup_table",
        "xen/grant_entries.py GrantTable.grow",
        "xen/lifecycle.py create_domain",
        "xen/lifecycle.py choose_domid",
        "xen/frames.py FrameTable.alloc_extent",
        "xen/frames.py FrameTable._free_row",
        "xen/frames.py FrameTable._first_below",
        "xen/exchange.py",
        "dom0/gntalloc.py Gntalloc.alloc",
        "dom0/kernel.py Kernel.alloc_slot",
        "dom0/kernel.py Kernel.grant_access",
        "dom0/gntdev.py Gntdev.mmap raise KernelError(abi.ENOMEM)",
        "dom0/syscalls.py Syscalls.anonymous",
    ),
    "options of other versions, which Debian's Xen has not or does not change": (
        "xen/hypercall.py _transfer return -EOPNOTSUPP",
        "xen/grant_copy.py copy_one return GNTST_OKAY",
        "xen/grant_admin.py set_version return -ENOSYS",
    ),
    "not offered (-ENOSYS, -EOPNOTSUPP), where real Xen would do it; `bulkhead diff` names these": (
        "xen/device_model.py do_dm_op return -EOPNOTSUPP",
        "xen/domctl_guest.py get_record return -ENOSYS",
        "xen/domctl_guest.py _enable_monitor",
        "xen/hypercall_other.py _refused",
        "xen/hypercall_other.py _nowhere",
        "xen/sysctl.py _traces return -ENOSYS",
        "xen/sysctl.py _pages return -ENOSYS",
    ),
    "five lost races in a row against the same granter; tests/impl/test_races.py": (
        "xen/grant_transfer.py _commit return False",
        "xen/grant_entries.py GrantTable._set_status_v1 return GNTST_GENERAL_ERROR",
    ),
    "memory that can be read and then not be written: arguments lie in a page of the caller's own": (
        "xen/migration.py shadow_op return -EFAULT",
        "xen/exchange.py _chunks return chunk",
    ),
    "a device that is never mapped has these because all devices have them": (
        "dom0/evtchn.py Evtchn.may_split",
        "dom0/evtchn.py Evtchn.special",
        "dom0/gntalloc.py Gntalloc.special",
        "dom0/gntalloc.py Gntalloc._held",
        "dom0/privcmd.py Privcmd.may_split",
    ),
    "Linux refuses it before the driver does, or the executor cannot ask it; tests/impl/test_process_calls.py": (
        "dom0/gntdev.py Gntdev.map_grant_ref raise",
        "dom0/syscalls.py Syscalls raise KernelError(abi.EINVAL)",
        "dom0/vma_changes.py remap",
        "dom0/vma_changes.py _move",
    ),
}


def functions(text: str) -> dict[int, str]:
    """The qualified name of the function of each line."""
    found: dict[int, str] = {}
    for node in ast.parse(text).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        for each in inner:
            if isinstance(each, ast.FunctionDef):
                name = f"{node.name}.{each.name}" if isinstance(node, ast.ClassDef) else each.name
                found |= dict.fromkeys(range(each.lineno, (each.end_lineno or each.lineno) + 1), name)
    return found


def reason(file: str, function: str, line: str) -> str:
    """The reason of a line that nothing compared runs; "" if it has none."""
    for told, places in REASONS.items():
        for place in places:
            where, _, rest = place.partition(" ")
            who, _, words = rest.partition(" ")
            if where == file and (not who or function == who or function.startswith(who + ".")) and words in line:
                return told
    return ""

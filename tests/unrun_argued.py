"""Why no campaign, recording or proof runs certain lines of the implementation: the reasons, and the places of each.

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
        "xen/hypercall_other.py do_physdev_op return -ENOSYS",
        "xen/hypercall_other.py do_hypfs_op return -ENOSYS",
    ),
    "asked before: a translated guest has no such hypercall": (
        "xen/grant_transfer.py transfer_one p2m.lookup",
        "xen/mmu.py update_va_mapping return -ENOSYS",
    ),
    "Xen refuses a root or a frame that it has just named, or Dom0's kernel cannot read its own page": (
        "dom0/privcmd.py Privcmd._within raise",
        "dom0/privcmd.py Privcmd.mmap_resource raise KernelError(-errors",
        "dom0/privcmd.py Privcmd.resource_size abi.ACQUIRE_RESOURCE.size",
    ),
    "another call between the steps of a copy by a transitive grant; tests/impl/test_races.py": (
        "xen/grant_copy.py _acquire_transitive",
        "xen/hypercall.py _copy preemption.wanted",
        "xen/hypercall.py _copy raise Preempted(abi.GNTTABOP_COPY",
        "xen/hypercall.py _copy copy.restart",
    ),
    "a pipe that is full, or closed with pages in it; a debugger's store by force; tests/impl/test_process_memory.py": (
        "dom0/pipes.py Pipe.vmsplice raise",
        "dom0/pipes.py Pipe.close",
        "dom0/reach.py _copy",
        "dom0/reach.py take return _copy",
    ),
    "a call that real Linux has, and this Dom0 does not claim; tests/impl/test_process_memory.py, test_rare_ends.py": (
        "dom0/memory_calls.py madvise raise NotModelled",
        "dom0/memory_calls.py _advise raise NotModelled",
        "dom0/memory_calls.py mincore raise NotModelled",
        "dom0/pipes.py _page raise NotModelled",
        "dom0/vma_changes.py resize raise NotModelled",
    ),
    "five lost races in a row against the same granter; tests/impl/test_races.py": (
        "xen/grant_transfer.py _commit return False",
        "xen/grant_entries.py GrantTable._set_status_v1 return GNTST_GENERAL_ERROR",
    ),
    "memory that can be read and then not be written: arguments lie in a page of the caller's own": (
        "xen/migration.py shadow_op return -EFAULT",
        "xen/exchange.py _chunks return chunk",
    ),
    "a device that is never mapped has these because all devices have them": ("dom0/gntalloc.py Gntalloc._held",),
    "Linux refuses it before the driver does, or the executor cannot ask it; tests/impl/test_process_calls.py": (
        "dom0/gntdev.py Gntdev.map_grant_ref raise",
        "dom0/syscalls.py Syscalls raise KernelError(abi.EINVAL)",
        "dom0/vma_changes.py remap",
        "dom0/vma_changes.py _move",
    ),
    # DomB, its tools and the daemons.
    "DomB maps no grants and binds no port of others: Mini-OS and its libraries can; tests/impl/test_minios.py": (
        "domb/minios.py GntMap",
        "domb/minios_osdep.py MiniOsOsdep._gntmap",
        "domb/minios_osdep.py MiniOsOsdep.gnttab_open",
        "domb/minios_osdep.py MiniOsOsdep.gnttab_map",
        "domb/minios_osdep.py MiniOsOsdep.gnttab_unmap",
        "domb/minios_osdep.py MiniOsOsdep.gnttab_set_max_grants",
        "domb/minios_osdep.py MiniOsOsdep.gnttab_copy",
        "domb/minios_osdep.py MiniOsOsdep.close thing.fini()",
        "domb/minios_osdep.py MiniOsOsdep.evtchn_bind_interdomain",
        "domb/minios_osdep.py MiniOsOsdep.evtchn_bind_virq",
        "domb/minios_osdep.py MiniOsOsdep.evtchn_unbind",
        "domb/minios.py MiniOs.alloc_page",
        "domb/minios.py MiniOs.expand_table",
    ),
    "wrong arguments of a caller in the same kernel: DomB's are its own code's; tests/impl/test_minios.py": (
        "domb/minios_osdep.py MiniOsOsdep raise KernelError(E",
        "domb/minios.py MiniOs.load raise",
        "domb/minios.py MiniOs.store raise",
        "domb/minios.py MiniOs._setup_grants raise",
        "domb/minios.py Area.take raise",
    ),
    "a tool that builds itself, and rings by foreign mapping: `monolithic`; tests/impl/test_tools_alone.py, test_boot.py": (
        "tools/services.py LocalService",
        "tools/services.py find return LocalService",
        "tools/services.py find raise",
        "tools/fileproxy.py FileProxy.read_file",
        "tools/mapping.py RingMapping",
        "tools/mapping.py RingMapper",
    ),
    "a daemon whose device cannot be opened does not start; tests/impl/test_tools_alone.py": (
        "tools/xenstored.py Xenstored.__init__ raise",
        "tools/xenconsoled.py Xenconsoled.__init__ raise",
    ),
    "what people read: consoles and start_info as a guest sees it; tests/impl/test_tools.py, test_tools_alone.py": (
        "tools/xenconsoled.py printable",
        "tools/xenconsoled.py Xenconsoled.output",
        "domb/start_info.py unpack",
    ),
    "defence: the layout never makes it, and the library raises nothing on files that pass the checks before": (
        "domb/builder.py XcDom.gnttab_init self.fail",
        "domb/builder.py XcDom.gnttab_init continue",
        "domb/elf.py parse except Exception",
        "domb/elf.py parse program headers",
        "domb/protocol.py unpack_guest",
    ),
    "a kernel that is refused for one of many reasons, of which 5,000 moves meet some; tests/impl/test_elf.py": (
        "domb/elf.py _image raise ElfError",
        "domb/layout.py plan raise ElfError",
        "domb/layout.py _tables raise ElfError",
    ),
    "Xen refuses a frame that it has just named, or a call of a correct builder; tests/impl/test_minios.py": (
        "domb/minios_osdep.py MiniOsOsdep.foreign_resource os.unmap_frames",
        "domb/minios_osdep.py MiniOsOsdep.foreign_resource raise KernelError(-failed)",
        "domb/minios_osdep.py MiniOsOsdep._bind raise",
    ),
    "DomB is gone or sends garbage while an honest tool waits: no fault of its code does that; tests/impl/test_channel.py": (
        "tools/services.py RemoteService.call raise ToolError",
        "tools/services.py RemoteService.call self.close()",
        'tools/services.py RemoteService.create raise ToolError("create: DomB sends',
    ),
    "DomB has one file open at a time; tests/impl/test_fileproxy.py": (
        "tools/fileproxy.py FileProxy.open raise OsError(EMFILE)",
    ),
    "XenStore refuses what xl asks of it for a new guest; tests/impl/test_tools.py": (
        "tools/xl.py Xl._connect except XsError",
        'tools/xl.py Xl._connect raise ToolError(f"create: XenStore',
    ),
    "more than a message holds, or a number that is none: rare in 5,000 moves; tests/impl/test_store_alone.py": (
        'tools/xenstored.py Xenstored.request raise XsError("E2BIG")',
        'tools/xenstored.py Xenstored._directory raise XsError("E2BIG")',
        'tools/xenstored.py Xenstored._words raise XsError("EINVAL")',
        'tools/xenstored.py Xenstored._number raise XsError("EINVAL")',
        'tools/xenstored.py Xenstored._set_perms raise XsError("EINVAL")',
        'tools/xenstored.py Xenstored._transaction_end raise XsError("EINVAL")',
        'tools/xenstored.py Xenstored._watch raise XsError("ENOSYS")',
    ),
    "a daemon that breaks the protocol towards a guest: ours does not; tests/impl/test_tools_alone.py": (
        "rings/xenbus.py Xenbus.take except BadIndex",
        "rings/xenbus.py Xenbus.take return []",
        "rings/xenbus.py Xenbus.take break",
    ),
    # The libraries.
    "BSD's form of the device: no such Dom0 is recorded; tests/impl/test_libs.py, test_libs_bytes.py": ("libs/freebsd.py",),
    "the calls of 2007, which no tool makes any more; tests/impl/test_libs.py, test_libs_bytes.py": ("libs/xc_gnttab.py",),
    "an operation that this operating system lacks; tests/impl/test_libs_bytes.py": ("libs/osdep.py Osdep raise",),
    "runs when the libraries are imported": ("libs/osdep.py null_on_error", "libs/osdep.py minus_on_error"),
    "privcmd, which `disaggregated` has not; tests/impl/test_libs.py, test_libs_bytes.py, test_boot.py": (
        "libs/linux.py UnixOsdep.foreign_open",
        "libs/linux.py UnixOsdep.foreign_map",
        "libs/linux.py UnixOsdep.foreign_unmap",
        "libs/linux.py UnixOsdep.foreign_restrict",
        "libs/linux.py UnixOsdep.foreign_resource",
        "libs/linux.py UnixOsdep.hypercall",
        "libs/foreignmemory.py xenforeignmemory_restrict",
    ),
    "no tool or daemon shares pages, copies, or maps so: users of the campaign make the system calls; test_libs_bytes.py": (
        "libs/linux.py LinuxOsdep.gntshr_open",
        "libs/linux.py LinuxOsdep.gntshr_share",
        "libs/linux.py LinuxOsdep.gntshr_unshare",
        "libs/linux.py LinuxOsdep.gnttab_copy",
        "libs/linux.py LinuxOsdep.gnttab_set_max_grants",
        "libs/linux.py UnixOsdep.evtchn_bind_unbound_port",
        "libs/linux.py UnixOsdep.evtchn_bind_virq",
        "libs/gnttab.py xengnttab_fd",
        "libs/gnttab.py xengnttab_set_max_grants",
        "libs/gnttab.py xengnttab_map_grant_refs",
        "libs/gnttab.py xengnttab_grant_copy",
        "libs/gnttab.py xengntshr_share_page_notify",
        "libs/evtchn.py xenevtchn_fd",
        "libs/evtchn.py xenevtchn_bind_virq",
        "libs/foreignmemory.py xenforeignmemory_map err[:] = errors",
        "libs/foreignmemory.py xenforeignmemory_map return addr",
        "libs/vchan.py server_init places.append",
        "libs/vchan.py server_init continue",
        "libs/vchan.py client_init places.append",
        "libs/vchan.py client_init continue",
    ),
    "wrong arguments, or a system that fails under a correct caller; tests/impl/test_libs_*.py, test_libs_vchan.py": (
        "libs/ctrl.py xc_domain_getinfo raise",
        "libs/ctrl.py xc_vcpu_setcontext raise",
        "libs/foreignmemory.py xc_map_foreign_range",
        "libs/gnttab.py xengnttab_unmap raise",
        "libs/linux.py LinuxOsdep.gnttab_map raise OsError(EINVAL)",
        "libs/linux.py LinuxOsdep.gnttab_map self.driver.munmap",
        "libs/linux.py LinuxOsdep.gnttab_unmap raise",
        "libs/vchan.py Vchan.send raise",
        "libs/vchan.py Vchan.is_open return False",
        "libs/vchan.py Vchan.close return",
        "libs/vchan.py check_orders raise",
        "libs/vchan.py client_init raise OsError",
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

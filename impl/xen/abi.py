"""Numbers and struct layouts of the Xen ABI, kept in one place.

Contents: hypercall numbers, domain ids, status codes, errno values, flag bits and `struct.Struct`
layouts of public/xen.h, public/grant_table.h, public/memory.h, public/domctl.h and public/event_channel.h.
Not here: any behaviour. Layouts are little endian, as on x86.
"""

from struct import Struct
from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 4096
PAGE_MASK: Final = 0xFFF

# --- errno (Xen returns them negated; public/errno.h) ---
EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EINTR: Final = 4
EIO: Final = 5
ENXIO: Final = 6
E2BIG: Final = 7
EBADF: Final = 9
EAGAIN: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
EXDEV: Final = 18
ENODEV: Final = 19
EINVAL: Final = 22
ENOTTY: Final = 25
ENOSPC: Final = 28
EDOM: Final = 33
ERANGE: Final = 34
ENOSYS: Final = 38
ENODATA: Final = 61
EPROTO: Final = 71
EILSEQ: Final = 84
ESTALE: Final = 116
EOPNOTSUPP: Final = 95
ENOBUFS: Final = 105

# --- domain ids (public/xen.h) ---
DOMID_FIRST_RESERVED: Final = 0x7FF0
DOMID_SELF: Final = 0x7FF0
DOMID_IO: Final = 0x7FF1
DOMID_XEN: Final = 0x7FF2
DOMID_COW: Final = 0x7FF3
DOMID_INVALID: Final = 0x7FF4
DOMID_IDLE: Final = 0x7FFF

# --- hypercall numbers (public/xen.h) ---
HYPERVISOR_SET_TRAP_TABLE: Final = 0
HYPERVISOR_MMU_UPDATE: Final = 1
HYPERVISOR_SET_GDT: Final = 2
HYPERVISOR_STACK_SWITCH: Final = 3
HYPERVISOR_SET_CALLBACKS: Final = 4
HYPERVISOR_FPU_TASKSWITCH: Final = 5
HYPERVISOR_SCHED_OP_COMPAT: Final = 6
HYPERVISOR_PLATFORM_OP: Final = 7
HYPERVISOR_SET_DEBUGREG: Final = 8
HYPERVISOR_GET_DEBUGREG: Final = 9
HYPERVISOR_UPDATE_DESCRIPTOR: Final = 10
HYPERVISOR_MEMORY_OP: Final = 12
HYPERVISOR_MULTICALL: Final = 13
HYPERVISOR_UPDATE_VA_MAPPING: Final = 14
HYPERVISOR_SET_TIMER_OP: Final = 15
HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: Final = 16
HYPERVISOR_XEN_VERSION: Final = 17
HYPERVISOR_CONSOLE_IO: Final = 18
HYPERVISOR_PHYSDEV_OP_COMPAT: Final = 19
HYPERVISOR_GRANT_TABLE_OP: Final = 20
HYPERVISOR_VM_ASSIST: Final = 21
HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: Final = 22
HYPERVISOR_VCPU_OP: Final = 24
HYPERVISOR_SET_SEGMENT_BASE: Final = 25
HYPERVISOR_MMUEXT_OP: Final = 26
HYPERVISOR_NMI_OP: Final = 28
HYPERVISOR_SCHED_OP: Final = 29
HYPERVISOR_CALLBACK_OP: Final = 30
HYPERVISOR_XENOPROF_OP: Final = 31
HYPERVISOR_EVENT_CHANNEL_OP: Final = 32
HYPERVISOR_PHYSDEV_OP: Final = 33
HYPERVISOR_HVM_OP: Final = 34
HYPERVISOR_SYSCTL: Final = 35
HYPERVISOR_DOMCTL: Final = 36
HYPERVISOR_KEXEC_OP: Final = 37
HYPERVISOR_XENPMU_OP: Final = 40
HYPERVISOR_DM_OP: Final = 41
HYPERVISOR_HYPFS_OP: Final = 42
HYPERVISOR_MCA: Final = 48
HYPERVISOR_PAGING_DOMCTL_CONT: Final = 49

# --- grant table operations (public/grant_table.h) ---
GNTTABOP_MAP_GRANT_REF: Final = 0
GNTTABOP_UNMAP_GRANT_REF: Final = 1
GNTTABOP_SETUP_TABLE: Final = 2
GNTTABOP_DUMP_TABLE: Final = 3
GNTTABOP_TRANSFER: Final = 4
GNTTABOP_COPY: Final = 5
GNTTABOP_QUERY_SIZE: Final = 6
GNTTABOP_UNMAP_AND_REPLACE: Final = 7
GNTTABOP_SET_VERSION: Final = 8
GNTTABOP_GET_STATUS_FRAMES: Final = 9
GNTTABOP_GET_VERSION: Final = 10
GNTTABOP_SWAP_GRANT_REF: Final = 11
GNTTABOP_CACHE_FLUSH: Final = 12
GNTTABOP_CMD_MASK: Final = 0xFFF
GNTTAB_CACHE_CLEAN: Final = 1
GNTTAB_CACHE_INVAL: Final = 2

GNTST_OKAY: Final = 0
GNTST_GENERAL_ERROR: Final = -1
GNTST_BAD_DOMAIN: Final = -2
GNTST_BAD_GNTREF: Final = -3
GNTST_BAD_HANDLE: Final = -4
GNTST_BAD_VIRT_ADDR: Final = -5
GNTST_BAD_DEV_ADDR: Final = -6
GNTST_NO_DEVICE_SPACE: Final = -7
GNTST_PERMISSION_DENIED: Final = -8
GNTST_BAD_PAGE: Final = -9
GNTST_BAD_COPY_ARG: Final = -10
GNTST_ADDRESS_TOO_BIG: Final = -11
GNTST_EAGAIN: Final = -12
GNTST_NO_SPACE: Final = -13

GTF_INVALID: Final = 0
GTF_PERMIT_ACCESS: Final = 1
GTF_ACCEPT_TRANSFER: Final = 2
GTF_TRANSITIVE: Final = 3
GTF_TYPE_MASK: Final = 3
GTF_READONLY: Final = 0x4
GTF_READING: Final = 0x8
GTF_WRITING: Final = 0x10
GTF_SUB_PAGE: Final = 0x100
GTF_TRANSFER_COMMITTED: Final = 0x4
GTF_TRANSFER_COMPLETED: Final = 0x8

GNTMAP_DEVICE_MAP: Final = 1
GNTMAP_HOST_MAP: Final = 2
GNTMAP_READONLY: Final = 4
GNTMAP_APPLICATION_MAP: Final = 8
GNTMAP_CONTAINS_PTE: Final = 16
GNTMAP_GUEST_AVAIL_SHIFT: Final = 16
GNTCOPY_SOURCE_GREF: Final = 1
GNTCOPY_DEST_GREF: Final = 2

NR_RESERVED_ENTRIES: Final = 8
ENTRIES_V1: Final = 512
ENTRIES_V2: Final = 256
STATUS_PER_FRAME: Final = 2048
MAPTRACK_PER_FRAME: Final = 256

# Four packed 8-bit pin counters (Xen common/grant_table.c, GNTPIN_*).
PIN_HSTW: Final = 0x1
PIN_HSTR: Final = 0x100
PIN_DEVW: Final = 0x10000
PIN_DEVR: Final = 0x1000000
PIN_WRITERS: Final = 0x00FF00FF  # hstw and devw counters together

# Whole structures. MAP/UNMAP sizes include trailing padding so that arrays index correctly.
MAP_GRANT_REF: Final = Struct("<QIIHhIQ")  # host_addr flags ref dom status handle dev_bus_addr = 32
MAP_OUT: Final = Struct("<hIQ")  # status, handle, dev_bus_addr at offset 18
UNMAP_GRANT_REF: Final = Struct("<QQIhH")  # host_addr dev_bus_addr handle status pad = 24
UNMAP_AND_REPLACE: Final = Struct("<QQIhH")  # host_addr new_addr handle status pad = 24
SETUP_TABLE: Final = Struct("<HHIhHIQ")  # dom pad nr_frames status pad pad frame_list = 24
TRANSFER: Final = Struct("<QHHIhHI")  # mfn domid pad ref status pad pad = 24
COPY: Final = Struct("<QHHIQHHIHHhH")  # source{u,domid,offset} dest{u,domid,offset} len flags status = 40
QUERY_SIZE: Final = Struct("<HHIIhH")  # dom pad nr max status pad = 16
SET_VERSION: Final = Struct("<I")
GET_STATUS_FRAMES: Final = Struct("<IHhQ")  # nr_frames dom status frame_list = 16
GET_VERSION: Final = Struct("<HHI")
SWAP_GRANT_REF: Final = Struct("<IIhH")  # ref_a ref_b status pad = 12
CACHE_FLUSH: Final = Struct("<QHHI")  # dev_bus_addr/ref offset length op = 16
STATUS: Final = Struct("<h")

ENTRY_V1: Final = Struct("<HHI")  # flags domid frame
ENTRY_V2: Final = Struct("<HHHHQ")  # flags domid page_off/trans_domid length/pad frame
HEADER: Final = Struct("<HH")
U16: Final = Struct("<H")
U32: Final = Struct("<I")
U64: Final = Struct("<Q")

# --- mmu_update / mmuext_op (public/xen.h) ---
MMU_UPDATE: Final = Struct("<QQ")  # ptr val
MMUEXT_OP: Final = Struct("<IIQQ")  # cmd pad arg1 arg2 = 24
MMU_NORMAL_PT_UPDATE: Final = 0
MMU_MACHPHYS_UPDATE: Final = 1
MMU_PT_UPDATE_PRESERVE_AD: Final = 2
MMU_PT_UPDATE_NO_TRANSLATE: Final = 3
MMU_UPDATE_PREEMPTED: Final = 1 << 31
MMUEXT_PIN_L1_TABLE: Final = 0
MMUEXT_PIN_L4_TABLE: Final = 3
MMUEXT_UNPIN_TABLE: Final = 4
MMUEXT_NEW_BASEPTR: Final = 5
MMUEXT_TLB_FLUSH_LOCAL: Final = 6
MMUEXT_INVLPG_LOCAL: Final = 7
MMUEXT_TLB_FLUSH_MULTI: Final = 8
MMUEXT_INVLPG_MULTI: Final = 9
MMUEXT_TLB_FLUSH_ALL: Final = 10
MMUEXT_INVLPG_ALL: Final = 11
MMUEXT_FLUSH_CACHE: Final = 12
MMUEXT_SET_LDT: Final = 13
MMUEXT_NEW_USER_BASEPTR: Final = 15
MMUEXT_CLEAR_PAGE: Final = 16
MMUEXT_COPY_PAGE: Final = 17
MMUEXT_FLUSH_CACHE_GLOBAL: Final = 18
MMUEXT_MARK_SUPER: Final = 19
MMUEXT_UNMARK_SUPER: Final = 20
UVMF_FLUSHTYPE_MASK: Final = 3
UVMF_TLB_FLUSH: Final = 1
UVMF_INVLPG: Final = 2
UVMF_ALL: Final = 4

# --- multicall (public/xen.h) ---
MULTICALL_ENTRY: Final = Struct("<8Q")  # op result args[6] = 64

# --- memory_op (public/memory.h) ---
XENMEM_INCREASE_RESERVATION: Final = 0
XENMEM_DECREASE_RESERVATION: Final = 1
XENMEM_MAXIMUM_RAM_PAGE: Final = 2
XENMEM_CURRENT_RESERVATION: Final = 3
XENMEM_MAXIMUM_RESERVATION: Final = 4
XENMEM_MACHPHYS_MFN_LIST: Final = 5
XENMEM_POPULATE_PHYSMAP: Final = 6
XENMEM_ADD_TO_PHYSMAP: Final = 7
XENMEM_MEMORY_MAP: Final = 9
XENMEM_MACHINE_MEMORY_MAP: Final = 10
XENMEM_EXCHANGE: Final = 11
XENMEM_MACHPHYS_MAPPING: Final = 12
XENMEM_SET_MEMORY_MAP: Final = 13
XENMEM_MAXIMUM_GPFN: Final = 14
XENMEM_REMOVE_FROM_PHYSMAP: Final = 15
XENMEM_SET_POD_TARGET: Final = 16
XENMEM_GET_POD_TARGET: Final = 17
XENMEM_GET_SHARING_FREED_PAGES: Final = 18
XENMEM_GET_SHARING_SHARED_PAGES: Final = 19
XENMEM_ACCESS_OP: Final = 21
XENMEM_ADD_TO_PHYSMAP_BATCH: Final = 23
XENMEM_CLAIM_PAGES: Final = 24
XENMEM_MACHPHYS_COMPAT_MFN_LIST: Final = 25
XENMEM_GET_VNUMAINFO: Final = 26
XENMEM_RESERVED_DEVICE_MEMORY_MAP: Final = 27
XENMEM_ACQUIRE_RESOURCE: Final = 28
MEMOP_CMD_MASK: Final = 0x3F
MEMOP_EXTENT_SHIFT: Final = 6
MEMORY_RESERVATION: Final = Struct("<QQIIHHI")  # extent_start nr_extents order memflags domid pad = 32
ADD_TO_PHYSMAP: Final = Struct("<HHIQQ")  # domid size space idx gpfn = 24
ADD_TO_PHYSMAP_BATCH: Final = Struct("<HHHHQQQ")  # domid space size foreign_domid idxs gpfns errs = 32
REMOVE_FROM_PHYSMAP: Final = Struct("<H6xQ")  # domid gpfn = 16
MEMORY_RDM: Final = Struct("<IIQ")  # flags nr_entries buffer, of xen_reserved_device_memory_map
ACQUIRE_RESOURCE: Final = Struct("<HHIIIQQ")  # domid type id nr_frames pad frame frame_list = 32
XENMAPSPACE_SHARED_INFO: Final = 0
XENMAPSPACE_GRANT_TABLE: Final = 1
XENMAPSPACE_GMFN: Final = 2
XENMAPSPACE_GMFN_RANGE: Final = 3
XENMAPSPACE_GMFN_FOREIGN: Final = 4
XENMAPSPACE_DEV_MMIO: Final = 5
XENMAPIDX_GRANT_TABLE_STATUS: Final = 0x80000000

# --- domctl (public/domctl.h of 4.17) ---
DOMCTL_INTERFACE_VERSION: Final = 0x15
DOMCTL_CREATEDOMAIN: Final = 1
DOMCTL_DESTROYDOMAIN: Final = 2
DOMCTL_PAUSEDOMAIN: Final = 3
DOMCTL_UNPAUSEDOMAIN: Final = 4
DOMCTL_GETDOMAININFO: Final = 5
DOMCTL_SETVCPUAFFINITY: Final = 9
DOMCTL_SHADOW_OP: Final = 10
DOMCTL_MAX_MEM: Final = 11
DOMCTL_SETVCPUCONTEXT: Final = 12
DOMCTL_GETVCPUCONTEXT: Final = 13
DOMCTL_GETVCPUINFO: Final = 14
DOMCTL_MAX_VCPUS: Final = 15
DOMCTL_SCHEDULER_OP: Final = 16
DOMCTL_SETDOMAINHANDLE: Final = 17
DOMCTL_SETDEBUGGING: Final = 18
DOMCTL_IRQ_PERMISSION: Final = 19
DOMCTL_IOMEM_PERMISSION: Final = 20
DOMCTL_IOPORT_PERMISSION: Final = 21
DOMCTL_HYPERCALL_INIT: Final = 22
DOMCTL_SOFT_RESET_CONT: Final = 23
DOMCTL_SETTIMEOFFSET: Final = 24
DOMCTL_GETVCPUAFFINITY: Final = 25
DOMCTL_RESUMEDOMAIN: Final = 27
DOMCTL_SENDTRIGGER: Final = 28
DOMCTL_SUBSCRIBE: Final = 29
DOMCTL_GETHVMCONTEXT: Final = 33
DOMCTL_SETHVMCONTEXT: Final = 34
DOMCTL_SET_ADDRESS_SIZE: Final = 35
DOMCTL_GET_ADDRESS_SIZE: Final = 36
DOMCTL_ASSIGN_DEVICE: Final = 37
DOMCTL_BIND_PT_IRQ: Final = 38
DOMCTL_MEMORY_MAPPING: Final = 39
DOMCTL_IOPORT_MAPPING: Final = 40
DOMCTL_SET_EXT_VCPUCONTEXT: Final = 42
DOMCTL_GET_EXT_VCPUCONTEXT: Final = 43
DOMCTL_TEST_ASSIGN_DEVICE: Final = 45
DOMCTL_SET_TARGET: Final = 46
DOMCTL_DEASSIGN_DEVICE: Final = 47
DOMCTL_UNBIND_PT_IRQ: Final = 48
DOMCTL_GET_DEVICE_GROUP: Final = 50
DOMCTL_DEBUG_OP: Final = 54
DOMCTL_GETHVMCONTEXT_PARTIAL: Final = 55
DOMCTL_VM_EVENT_OP: Final = 56
DOMCTL_GETTSCINFO: Final = 59
DOMCTL_SETTSCINFO: Final = 60
DOMCTL_GETPAGEFRAMEINFO3: Final = 61
DOMCTL_SETVCPUEXTSTATE: Final = 62
DOMCTL_GETVCPUEXTSTATE: Final = 63
DOMCTL_SET_ACCESS_REQUIRED: Final = 64
DOMCTL_SET_VIRQ_HANDLER: Final = 66
DOMCTL_SET_BROKEN_PAGE_P2M: Final = 67
DOMCTL_SETNODEAFFINITY: Final = 68
DOMCTL_GETNODEAFFINITY: Final = 69
DOMCTL_GET_VCPU_MSRS: Final = 72
DOMCTL_SET_VCPU_MSRS: Final = 73
DOMCTL_SETVNUMAINFO: Final = 74
DOMCTL_PSR_CMT_OP: Final = 75
DOMCTL_MONITOR_OP: Final = 77
DOMCTL_PSR_ALLOC: Final = 78
DOMCTL_SOFT_RESET: Final = 79
DOMCTL_GET_CPU_POLICY: Final = 82
DOMCTL_SET_CPU_POLICY: Final = 83
DOMCTL_VMTRACE_OP: Final = 84
DOMCTL_GET_PAGING_MEMPOOL_SIZE: Final = 85
DOMCTL_SET_PAGING_MEMPOOL_SIZE: Final = 86
DOMCTL_HEADER: Final = Struct("<IIHHHH")  # cmd interface_version domain pad[3] = 16
DOMCTL_SIZE: Final = 16 + 128
CREATEDOMAIN: Final = Struct("<I16sIIIIiiIIIII")
CDF_HVM: Final = 1
CDF_HAP: Final = 2
CDF_XS_DOMAIN: Final = 0x10
CDF_S3_INTEGRITY: Final = 0x4
CDF_IOMMU: Final = 0x20
CDF_NESTED_VIRT: Final = 0x40
CDF_VPMU: Final = 0x80
CDF_KNOWN: Final = 0xFF
EMU_LAPIC: Final = 1
EMU_HPET: Final = 1 << 1
EMU_PM: Final = 1 << 2
EMU_USE_PIRQ: Final = 1 << 9
EMU_VPCI: Final = 1 << 10
EMU_PIT: Final = 1 << 8
EMU_ALL: Final = 0x7FF
MISC_FLAGS: Final = 1  # MSR_RELAXED
INVALID_VCPU_ID: Final = 0xFFFFFFFF
# domain pad flags tot max outstanding shared paged shared_info cpu_time online max_vcpu_id ssidref handle cpupool
# gpaddr_bits emulation_flags = 112
GETDOMAININFO: Final = Struct("<HHIQQQQQQQIII16sIB7xI4x")
SETVCPUCONTEXT: Final = Struct("<IIQ")  # vcpu pad ctxt = 16

# --- struct vcpu_guest_context of x86-64 (public/arch-x86/xen.h) ---
VCPU_CONTEXT_SIZE: Final = 5168
USER_REGS_OFFSET: Final = 520
CTRLREG_OFFSET: Final = 4984
CALLBACKS_OFFSET: Final = 5112  # event, failsafe, syscall entry points
VGCF_IN_KERNEL: Final = 1 << 2
VGCF_ONLINE: Final = 1 << 5

# --- event channels (public/event_channel.h) ---
EVTCHNOP_BIND_INTERDOMAIN: Final = 0
EVTCHNOP_BIND_VIRQ: Final = 1
EVTCHNOP_BIND_PIRQ: Final = 2
EVTCHNOP_CLOSE: Final = 3
EVTCHNOP_SEND: Final = 4
EVTCHNOP_STATUS: Final = 5
EVTCHNOP_ALLOC_UNBOUND: Final = 6
EVTCHNOP_BIND_IPI: Final = 7
EVTCHNOP_BIND_VCPU: Final = 8
EVTCHNOP_UNMASK: Final = 9
EVTCHNOP_RESET: Final = 10
EVTCHNOP_INIT_CONTROL: Final = 11
EVTCHNOP_EXPAND_ARRAY: Final = 12
EVTCHNOP_SET_PRIORITY: Final = 13
EVTCHNOP_RESET_CONT: Final = 14
VIRQ_DOM_EXC: Final = 3
NR_VIRQS: Final = 24
PER_VCPU_VIRQS: Final = frozenset({0, 1, 7, 13})  # timer, debug, xenoprof, PMU; all others are global

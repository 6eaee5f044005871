"""struct vcpu_hvm_context: how a translated guest sets up one of its vCPUs (VCPUOP_initialise).

Contents: the checks of its two forms, in protected and in long mode, and the root of the tables that the vCPU starts with.
Not here: paravirtual contexts (vcpu_context.py), and the registers themselves, as no instructions are executed. Sources: Xen
arch/x86/hvm/domain.c (arch_set_info_hvm_guest, check_segment), arch/x86/hvm/hvm.c (hvm_efer_valid).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EEXIST, EINVAL, PAGE_SHIFT
from bulkhead.impl.xen.vcpu_context import canonical

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu

SIZE: Final = 128  # mode, padding, and the larger of the two forms
MODE: Final = Struct("<II")
PROTECTED, LONG = 0, 1
LONG_FORM: Final = Struct("<14Q")  # rax rcx rdx rbx rsp rbp rsi rdi rip rflags cr0 cr3 cr4 efer
SHORT_FORM: Final = Struct("<10I 3I I Q 5I 5I 5H")  # general, cr0 cr3 cr4, pad1, efer, bases, limits, attributes
PAGING, PAE, LME, LMA = 1 << 31, 1 << 5, 1 << 8, 1 << 10
EFER_KNOWN: Final = 0x1 | LME | LMA | 1 << 11  # of the processor that guests see: SCE, LME, LMA, NX
CODE, DATA_READ, STACK, TASK = range(4)
TASKS: Final = (9, 11)  # types of a task's segment, available and busy
CR4_KNOWN: Final = 0x7FC  # of the same processor: no virtual 8086 extensions, and nothing after performance counters


def set_hvm_context(vcpu: VCpu, raw: bytes) -> int:
    """Set up a vCPU that is not: 0, -EEXIST or -EINVAL."""
    if vcpu.context is not None:
        return -EEXIST
    mode, pad = MODE.unpack_from(raw)
    if pad:
        return -EINVAL
    if mode == LONG:
        *_, rip, _, cr0, cr3, cr4, efer = LONG_FORM.unpack_from(raw, MODE.size)
        if not canonical(rip) or not cr0 & PAGING or not cr4 & PAE or not efer & LME:
            return -EINVAL
    elif mode == PROTECTED:
        fields = SHORT_FORM.unpack_from(raw, MODE.size)
        eip, cr3, cr4, efer = fields[8], fields[11], fields[12], fields[14]
        if fields[13] or not _segments_fit(eip, fields[20], *fields[25:]) or (efer & LMA and not efer & LME):
            return -EINVAL
    else:
        return -EINVAL
    if efer & ~EFER_KNOWN or cr4 & ~CR4_KNOWN:
        return -EINVAL
    vcpu.context = raw
    vcpu.root_gfn = cr3 >> PAGE_SHIFT if mode == LONG else None
    return 0


def _segments_fit(eip: int, cs_limit: int, cs: int, ds: int, ss: int, es: int, tr: int) -> bool:
    """The attributes of five segments, and that execution begins within the first."""
    kinds = ((cs, CODE), (ds, DATA_READ), (ss, STACK), (es, DATA_READ), (tr, TASK))
    if not all(_attributes_fit(attributes, kind) for attributes, kind in kinds):
        return False
    limit = cs_limit << PAGE_SHIFT | 0xFFF if cs >> 11 & 1 else cs_limit
    privileges = [each >> 5 & 3 for each in (cs, ss, ds, es)]
    used = [bool(each >> 7 & 1) for each in (ds, es)]
    return (
        eip <= limit
        and privileges[0] == privileges[1]
        and not any(there and each > privileges[0] for each, there in zip(privileges[2:], used, strict=True))
    )


def _attributes_fit(attributes: int, kind: int) -> bool:
    """Of one segment: type, system or not, privilege, present (check_segment). Data segments may be null."""
    if attributes >> 12:
        return False
    if not attributes:
        return kind == DATA_READ
    low, is_plain, present = attributes & 0xF, attributes >> 4 & 1, attributes >> 7 & 1
    if kind == TASK:
        return not is_plain and bool(present) and low in TASKS
    if not is_plain or not present:
        return False
    code, readable_or_writable = low & 8, low & 2
    if kind == CODE:
        return bool(code)
    if kind == STACK:
        return not code and bool(readable_or_writable)
    return not code or bool(readable_or_writable)

"""The struct of a control interface: how domctl, sysctl and platform_op begin, and the bitmaps that they name.

Contents: read the whole struct, check the interface's version before anything else, then the caller's privilege; the bytes
of a bitmap. Not here: the commands. Sources: Xen common/domctl.c, common/sysctl.c, common/bitmap.c,
arch/x86/platform_hypercall.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EACCES, EFAULT, U32
from bulkhead.impl.xen.guest_access import read

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

VERSION_AT: Final = 4  # behind the command


def bitmap_bytes(bits: int) -> int:
    """The size of a bitmap of so many bits. Xen adds in 32 bits: of the seven largest numbers it takes no byte."""
    return (bits + 7 & 0xFFFFFFFF) // 8


def versioned_struct(xen: Xen, vcpu: VCpu, arg: int, size: int, version: int) -> bytes | int:
    """The caller's struct, or -EFAULT; -EACCES if it is of another version of the interface."""
    raw = read(xen, vcpu, arg, size)
    if raw is None:
        return -EFAULT
    return raw if U32.unpack_from(raw, VERSION_AT)[0] == version else -EACCES


def privileged_struct(xen: Xen, vcpu: VCpu, arg: int, size: int, version: int, operation: str) -> bytes | int:
    """The same of a caller that may use the whole interface, or the policy's answer."""
    raw = versioned_struct(xen, vcpu, arg, size, version)
    return raw if isinstance(raw, int) else xen.xsm.priv(operation, vcpu.domain) or raw

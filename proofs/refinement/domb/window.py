"""The window of a guest's address space in which the campaign maps pages: one page table, which the builder leaves empty.

Not here: what is mapped there (guest_memory.py), and the comparison (compare.py).
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.vcpu_context import RSI, register

SLOTS: Final = 4
WINDOW: Final = 2 << 20  # behind the guest's pages
MAPPED: Final = (4 << 20) - 1  # what the builder maps begins and ends at a multiple of this


def address(domain: Domain, slot: int) -> int:
    """The linear address of a slot."""
    vcpu = domain.vcpus[0]
    assert vcpu.context is not None
    start: int = register(vcpu.context, RSI)
    return (start & ~MAPPED) + WINDOW + slot * abi.PAGE_SIZE


__all__ = ["SLOTS", "address"]

"""The forms of calls that the corners share: memory operations, domctls, page tables, unmapped pages."""

from __future__ import annotations

from typing import Any, Final

from tests.xen.workload.script import DOMCTL, MEMORY_OP, MMU_UPDATE, MMUEXT_OP, UPDATE_VA_MAPPING, Script

UNMAPPED: Final = "0xdead000"
SELF_ONLY: Final = "24:2:SELF"
ENTRY: Final = "2048:4:0x5555"


def memory(s: Script, by: str, op: int | str, w: str = "", o: str = "", a2: str = "arg", **more: Any) -> None:
    """One memory operation."""
    s.hypercall(by, MEMORY_OP, w, o, a1=op, a2=a2, **more)


def domctl(s: Script, cmd: int, dom: str, w: str = "", o: str = "", by: str = "d0") -> None:
    """One domctl."""
    s.hypercall(by, DOMCTL, f"0:4:{cmd},4:4:0x15,8:2:{dom}" + ("," + w if w else ""), o, a1="arg")


def mmu(s: Script, by: str, *requests: tuple[str, str], owner: str = "SELF", show: str = "") -> None:
    """One mmu_update of several requests."""
    words = [f"{16 * i}:8:{ptr},{16 * i + 8}:8:{val}" for i, (ptr, val) in enumerate(requests)]
    s.hypercall(
        by, MMU_UPDATE, ",".join([*words, ENTRY]), "done:2048:4", show, a1="arg", a2=len(requests), a3="arg+2048", a4=owner
    )


def extended(s: Script, by: str, *operations: tuple[int, str, str], owner: str = "SELF", count: str = "") -> None:
    """One mmuext_op of several operations."""
    words = [f"{24 * i}:4:{cmd},{24 * i + 8}:8:{one},{24 * i + 16}:8:{two}" for i, (cmd, one, two) in enumerate(operations)]
    s.hypercall(
        by,
        MMUEXT_OP,
        ",".join([*words, ENTRY]),
        "done:2048:4",
        a1="arg",
        a2=count or len(operations),
        a3="arg+2048",
        a4=owner,
    )


def unmap_page(s: Script, by: str, *pages: int) -> None:
    """Clear a guest's own mappings of pool pages."""
    for page in pages:
        s.hypercall(by, UPDATE_VA_MAPPING, a1=f"v.{page}", a2="0", a3=2)

"""Preemption: a long hypercall stops between two pieces of work and is restarted for the rest of the work.

Contents: the request to stop, and the loop that restarts the hypercall. Not here: where operations may
stop, and how each encodes the rest (in its arguments, so a guest can claim any progress). Only the registers of the call
survive: arguments in guest memory are read again, and everything is checked again. Source: Xen
arch/x86/hypercall.c hypercall_create_continuation, and its callers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from random import Random
from typing import TYPE_CHECKING, Final

from bulkhead.impl.xen.abi import EINVAL

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

NEVER: Final = "never"
ALWAYS: Final = "always"
SEEDED: Final = "seeded"
Registers = tuple[int, int, int, int, int]
Handler = Callable[["Xen", "VCpu", int, int, int, int, int], Generator[str, None, int]]


class Preempted(Exception):
    """Restart the hypercall with these registers (-ERESTART)."""

    def __init__(self, *registers: int) -> None:
        super().__init__(registers)
        first, second, third, fourth, fifth = (*registers, 0, 0, 0, 0, 0)[:5]
        self.registers: Registers = (first, second, third, fourth, fifth)


class Preemption:
    """Decides whether to preempt (hypercall_preempt_check): never, at every check, or at random from a seed."""

    __slots__ = ("kind", "rng")

    def __init__(self, kind: str = NEVER, seed: int = 0) -> None:
        if kind not in (NEVER, ALWAYS, SEEDED):
            raise ValueError(f"preemption `{kind}`: there are {NEVER}, {ALWAYS} and {SEEDED}")
        self.kind = kind
        self.rng = Random(seed)

    def wanted(self) -> bool:
        """Must the hypercall stop here?"""
        return self.kind == ALWAYS or (self.kind == SEEDED and self.rng.random() < 0.3)


def continued(xen: Xen, vcpu: VCpu, handler: Handler, registers: Registers) -> Generator[str, None, int]:
    """Run a hypercall, restarting it each time it is preempted. It never returns to a vCPU whose domain has died."""
    while True:
        try:
            return (yield from handler(xen, vcpu, *registers))
        except Preempted as again:
            registers = again.registers
        yield "hypercall.continue"
        while vcpu.domain.pause_count and not vcpu.domain.is_dying:
            yield "vcpu.paused"
        if vcpu.domain.is_dying or vcpu.domain.crashed:
            return -EINVAL

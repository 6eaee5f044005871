"""What the moves of guests (guests.py) offer to moves that stand in files of their own.

Not here: any move. The three files that use it must not import guests.py, which imports them.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.testbed import Guest
from bulkhead.proofs.refinement.view import View


class Guests(Protocol):
    """The guests of a campaign, as choices."""

    view: View
    rng: random.Random
    refs: list[int]

    def advance(self, f: CallInFlight) -> None: ...

    def call(self, guest: Guest, vcpu: int, operation: str, **arguments: Any) -> None: ...

    def write_entry(
        self, guest: Guest, ref: int, flags: int, domid: int, mfn: int, keep_bits: bool, part: tuple[int, int] = (0, 0)
    ) -> None: ...

    def pass_on(self, guest: Guest, ref: int, flags: int, domid: int, dom: int, behind: int) -> None: ...

    def grant_of(self, me: int, kinds: tuple[int, ...] = ...) -> tuple[int, int] | None: ...

    def ref(self) -> int: ...

    def page(self, guest: Guest) -> int: ...

    def version(self, guest: Guest, vcpu: int) -> None: ...

    def other(self, guest: Guest) -> int: ...

    def finish_calls(self) -> None: ...


__all__ = ["Guests"]

"""The common part of all who choose calls: the seed, the view, the target, and the text of the current action."""

from __future__ import annotations

import random
from typing import Any

from bulkhead.proofs.refinement.calls import Answer, Call, Interleaving
from bulkhead.proofs.refinement.domb.view import View


class Chooser:
    """Makes calls."""

    def __init__(self, view: View, target: Interleaving, rng: random.Random) -> None:
        self.view, self.target, self.rng = view, target, rng
        self.text = ""

    def call(self, by: str, operation: str, /, **arguments: Any) -> Answer:
        """Make a call."""
        return self.target.carry_out(Call(operation, by, arguments))


__all__ = ["Chooser"]

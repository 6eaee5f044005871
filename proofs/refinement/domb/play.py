"""Plays recorded campaigns of DomB again; ../play.py does it for `monolithic`.

Calls within a call are made at the moments that were recorded (`moment`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from bulkhead.proofs.refinement.calls import Answer, Call
from bulkhead.proofs.refinement.domb.exports import exported
from bulkhead.proofs.refinement.domb.machine import Moment
from bulkhead.proofs.refinement.domb.rule_state import RuleState
from bulkhead.proofs.refinement.domb.signatures import TABLE
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.world import Rules
from bulkhead.proofs.refinement.play import OnMachine, Playable
from bulkhead.proofs.refinement.recording import Event


class _OnDomb(OnMachine):
    """DomB's machine. Of the file one line more than played is read, to know when the next call within a call comes."""

    def __init__(self, path: Path, rules: Rules, rules_on: bool) -> None:
        super().__init__(path, TABLE, rules_on)
        self.rules = rules
        self.target: DombTarget | None = None
        self.ahead: Event | None = None
        self.due = -1  # the moment of the line ahead
        self.folder = contextlib.ExitStack()
        self.root = self.folder.enter_context(exported())

    def close(self) -> None:
        self.folder.close()

    def begin(self, seed: int) -> None:
        if self.target is not None and self.target.book is not None:
            self.target.book.close()
        self.target = DombTarget(self.rules, seed, self.root, self.rules_on)
        self.target.meanwhile = self._meanwhile

    def steps(self) -> int:
        return self.target.book.steps if self.target is not None and self.target.book is not None else 0

    def carry_out(self, call: Call, before: Answer | None) -> Answer:
        assert self.target is not None
        return self.target.carry_out(call)

    def peek(self) -> Event | None:
        """The next line, which stays the next one; not one that only has more rule steps of a call."""
        if self.ahead is None:
            self.ahead = next((e for e in self.events if e.call is not None or e.answer is not None), None)
            call = None if self.ahead is None else self.ahead.call
            self.due = call.arguments.get("number", -1) if call is not None and call.operation == "moment" else -1
        return self.ahead

    def next(self) -> Event | None:
        event = self.peek()
        self.ahead, self.due = None, -1
        return event

    def _meanwhile(self, moment: Moment) -> None:
        """The calls that were made at this moment: after its own line, up to the next moment's or the end of the call."""
        self.peek()
        if self.due != moment.number:
            return
        outer = self.line, self.call
        marker = self.next()
        assert marker is not None
        self.one(marker)
        while (event := self.peek()) is not None and event.call is not None and event.call.operation != "moment":
            self.next()
            self.one(event)
        self.line, self.call = outer


def playable(rules: Callable[[], Rules]) -> Playable:
    """Calls of campaigns on `disaggregated`."""
    return Playable(TABLE, lambda path, on: _OnDomb(path, rules(), on), lambda: RuleState(rules()))


__all__ = ["playable"]

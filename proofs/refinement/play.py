"""Replays the calls of a recording: on the rules alone, on the implementation alone, or on both in lockstep.

Each answer is compared with the recorded one, and the replay ends at the first difference, because the runs
diverge after it. The rules alone take the recorded steps, with the recorded picks, and must give the same answers; this
needs no implementation. Not here: the format of the file (recording.py), and campaigns.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bulkhead.model.caller import OKAY
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.interleaved import Interleaved
from bulkhead.proofs.refinement.lockstep.abstraction import dump
from bulkhead.proofs.refinement.lockstep.lockstep import CLAIMS_EVERY, FULL_EVERY, Lockstep
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch, SpecState
from bulkhead.proofs.refinement.lockstep.spec_world import Rules
from bulkhead.proofs.refinement.recording import MACHINE, BadCalls, Event, Header, read
from bulkhead.proofs.refinement.signatures import wrong

RULES_DECIDE: Final = {"write_entry", "end_access"}  # calls that are skipped if they are not enabled in the rules


class On(StrEnum):
    """The target that executes the calls."""

    RULES = "rules"
    IMPLEMENTATION = "implementation"
    LOCKSTEP = "lockstep"


@dataclass(frozen=True)
class Played:
    """The result of a replay: `difference` names the first different answer; "" if there is none."""

    file: str
    on: On
    machines: int
    calls: int
    rule_steps: int
    seconds: float
    difference: str = ""


class Differs(Exception):
    """An answer differs from the recorded one."""


def play(path: Path, on: On, rules: Callable[[], Rules]) -> Played:
    """Replay all calls of a file. BadCalls has the problem."""
    start = time.perf_counter()
    header, events = read(path)
    if header.system != "monolithic":
        raise BadCalls(f"{path}: these are calls of {header.system or 'no campaign'}; campaigns of monolithic can be played")
    made = _OnRules(path, header, rules()) if on == On.RULES else _OnMachine(path, rules(), on == On.LOCKSTEP)
    difference = ""
    try:
        made.play(events)
    except (Differs, Mismatch) as error:
        places = dump(error.places) if isinstance(error, Mismatch) else []
        difference = "\n  ".join([f"{path}:{made.line}: {made.told()}: {error}", *places])
    except UsageError:
        raise
    except struct.error as error:
        raise BadCalls(f"{path}:{made.line}: {made.told()}: an argument is out of range ({error})") from error
    except Exception as error:  # any exception of the implementation is a finding
        difference = f"{path}:{made.line}: {made.told()}: {type(error).__name__}: {error}"
    return Played(str(path), on, made.machines, made.calls, made.rule_steps(), time.perf_counter() - start, difference)


class _Playing:
    """The position in the file, and statistics."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        self.machines = 0
        self.calls = 0
        self.call: Call | None = None
        self.in_flight = ""  # the call that an `advance` continues

    def told(self) -> str:
        """The current call, as text."""
        if self.call is None:
            return "no call"
        if self.call.operation == "advance":
            return f"the next step of {self.in_flight or 'no call in flight'}"
        words = " ".join(f"{name}={value}" for name, value in self.call.arguments.items())
        return f"{self.call.by}: {self.call.operation} {words}".removeprefix(": ").strip()

    def come_to(self, event: Event) -> None:
        """The next line; its call must be a known operation."""
        self.line = event.line
        if event.call is None:
            return
        self.call = event.call
        if event.call.operation == MACHINE:
            self.machines += 1
        elif not self.machines:
            raise BadCalls(f"{self.path}:{event.line}: the first call has to be `{MACHINE}`, which makes one")
        else:
            self.calls += 1
        problem = wrong(event.call)
        if problem:
            raise BadCalls(f"{self.path}:{event.line}: {problem}")


class _OnMachine(_Playing):
    """The implementation, in lockstep with the rules or alone."""

    def __init__(self, path: Path, rules: Rules, rules_on: bool) -> None:
        super().__init__(path)
        self.rules = rules
        self.rules_on = rules_on
        self.steps_before = 0
        self.target: Interleaved | None = None
        self.events: Iterator[Event] = iter(())

    def play(self, events: Iterator[Event]) -> None:
        """All lines."""
        self.events = events
        for event in events:
            self._one(event)

    def rule_steps(self) -> int:
        """The number of rule steps."""
        return self.steps_before + (self.target.lockstep.spec_state.steps if self.target is not None else 0)

    def _one(self, event: Event) -> None:
        """A call, with all nested calls."""
        self.come_to(event)
        call = event.call
        if call is None:
            raise BadCalls(f"{self.path}:{event.line}: the end of a call that has not begun")
        now = self._carry_out(call, event.answer)
        self.line, self.call = event.line, call
        before = event.answer
        while before is None:
            more = next(self.events, None)
            if more is None:
                raise Differs(f"the recording ends in the midst of this call, which is answered {_text(now)} now")
            if more.call is not None:
                raise Differs(f"answered {_text(now)} already, and in the recording not before {more.call.operation}")
            before = more.answer
        if json.dumps(now.to_json()) != json.dumps(before.to_json()):
            raise Differs(f"recorded {_text(before)}, now {_text(now)}")

    def _carry_out(self, call: Call, before: Answer | None) -> Answer:
        if call.operation == MACHINE:
            self.steps_before = self.rule_steps()
            lockstep = Lockstep(self.rules, call.arguments["seed"], FULL_EVERY, CLAIMS_EVERY, self.rules_on)
            self.target = Interleaved(lockstep)
            self.target.meanwhile = self._meanwhile
            return Answer(OKAY)
        assert self.target is not None
        if call.operation == "advance":
            number = call.arguments["call"]
            self.in_flight = next((f.text for f in self.target.view.flights if f.number == number), "")
        if not self.rules_on and call.operation in RULES_DECIDE and before == NOT_DONE:
            return NOT_DONE
        return self.target.carry_out(call)

    def _meanwhile(self, own: Any) -> None:
        """The calls made while a call of Dom0's kernel was in flight."""
        assert self.target is not None
        outer = self.line, self.call
        while own in self.target.view.flights:
            event = next(self.events, None)
            if event is None or (event.answer is not None and event.call is None):
                self.line, self.call = outer
                raise Differs("a hypercall of the kernel is still in flight, and in the recording it had returned")
            if event.call is not None:
                self._one(event)
        self.line, self.call = outer


class _OnRules(_Playing):
    """The rules alone: each recorded step must give the same answer."""

    def __init__(self, path: Path, header: Header, rules: Rules) -> None:
        super().__init__(path)
        if not header.steps:
            raise BadCalls(f"{path}: recorded without the rules (--against nothing), so it has no steps of theirs to take")
        self.rules = rules
        self.steps = 0
        self.state: SpecState | None = None

    def rule_steps(self) -> int:
        """The number of rule steps."""
        return self.steps

    def play(self, events: Iterator[Event]) -> None:
        """All lines."""
        for event in events:
            self.come_to(event)
            if event.call is not None and event.call.operation == MACHINE:
                self.state = SpecState(self.rules, 0)
            for label, args, code, fail in event.steps:
                now = self._step(label, args, fail)
                if now != code:
                    raise Differs(f"`{label}` with {args}: recorded {code}, now {now}")
            if event.call is not None and event.call.operation == "end" and self.state is not None:
                self.state.check_claims()

    def _step(self, label: str, args: dict[str, int], fail: str | None) -> str | None:
        self.steps += 1
        try:
            if self.state is None:
                raise KeyError("a machine")
            return self.state.again(label, args, fail)
        except (KeyError, IndexError) as error:
            raise BadCalls(f"{self.path}:{self.line}: the rules cannot take `{label}` with {args}: {error}") from error


def _text(answer: Answer) -> str:
    return answer.code if answer.given is None else f"{answer.code} {answer.given}"

"""Replays the calls of a recording: on the rules alone, on the implementation alone, or on both in lockstep.

Each answer is compared with the recorded one, and the replay ends at the first difference, because the runs
diverge after it. The rules alone take the recorded steps, with the recorded picks, and must give the same answers; this
needs no implementation. `Playable` is what differs between systems; here is that of `monolithic`, DomB's is in domb/play.py.
Not here: the format of the file (recording.py), and campaigns.
"""

from __future__ import annotations

import json
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from bulkhead.model.caller import OKAY
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.interleaved import Interleaved
from bulkhead.proofs.refinement.lockstep.dump import dump
from bulkhead.proofs.refinement.lockstep.lockstep import CLAIMS_EVERY, FULL_EVERY, Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState
from bulkhead.proofs.refinement.lockstep.spec_world import Rules
from bulkhead.proofs.refinement.recording import MACHINE, BadCalls, Event, Header, read
from bulkhead.proofs.refinement.signatures import MONOLITHIC, Table

RULES_DECIDE: Final = {
    "write_entry",
    "store_in_table",
    "end_access",
}  # calls that are skipped if they are not enabled in the rules


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


@dataclass(frozen=True)
class Playable:
    """How calls of one system are played: their signatures, a machine for a file (beside the rules, or not), and a state of
    the rules."""

    table: Table
    machine: Callable[[Path, bool], OnMachine]
    state: Callable[[], Steps]


class Steps(Protocol):
    """A state of the rules that takes logged steps."""

    def again(self, label: str, args: dict[str, int], fail: str | None) -> str | None:
        """Take a step as it was logged; the code that it ends with now."""

    def check_claims(self) -> None:
        """All claims about states."""


def play(path: Path, on: On, systems: Mapping[str, Playable]) -> Played:
    """Replay all calls of a file. BadCalls has the problem."""
    start = time.perf_counter()
    header, events = read(path)
    system = systems.get(header.system)
    if system is None:
        known = " and ".join(systems)
        raise BadCalls(f"{path}: these are calls of {header.system or 'no campaign'}; campaigns of {known} can be played")
    made = _OnRules(path, header, system) if on == On.RULES else system.machine(path, on == On.LOCKSTEP)
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
    finally:
        made.close()
    return Played(str(path), on, made.machines, made.calls, made.rule_steps(), time.perf_counter() - start, difference)


class _Playing:
    """The position in the file, and statistics."""

    def __init__(self, path: Path, table: Table) -> None:
        self.path = path
        self.table = table
        self.line = 1
        self.machines = 0
        self.calls = 0
        self.call: Call | None = None
        self.in_flight = ""  # the call that an `advance` continues

    def close(self) -> None:
        """Everything was played."""

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
        problem = self.table.wrong(event.call)
        if problem:
            raise BadCalls(f"{self.path}:{event.line}: {problem}")


class OnMachine(_Playing, ABC):
    """The implementation, in lockstep with the rules or alone."""

    def __init__(self, path: Path, table: Table, rules_on: bool) -> None:
        super().__init__(path, table)
        self.rules_on = rules_on
        self.steps_before = 0
        self.events: Iterator[Event] = iter(())

    # What differs between systems.

    @abstractmethod
    def begin(self, seed: int) -> None:
        """A fresh machine."""

    @abstractmethod
    def carry_out(self, call: Call, before: Answer | None) -> Answer:
        """Make a call on it, which was answered so."""

    @abstractmethod
    def steps(self) -> int:
        """The number of rule steps that this machine has taken."""

    # What does not.

    def play(self, events: Iterator[Event]) -> None:
        """All lines."""
        self.events = events
        while (event := self.next()) is not None:
            self.one(event)

    def next(self) -> Event | None:
        """The next line."""
        return next(self.events, None)

    def rule_steps(self) -> int:
        """The number of rule steps."""
        return self.steps_before + self.steps()

    def one(self, event: Event) -> None:
        """A call, with all nested calls."""
        self.come_to(event)
        call = event.call
        if call is None:
            raise BadCalls(f"{self.path}:{event.line}: the end of a call that has not begun")
        if call.operation == MACHINE:
            self.steps_before = self.rule_steps()
            self.begin(call.arguments["seed"])
            now = Answer(OKAY)
        else:
            now = self.carry_out(call, event.answer)
        self.line, self.call = event.line, call
        before = event.answer
        while before is None:
            more = self.next()
            if more is None:
                raise Differs(f"the recording ends in the midst of this call, which is answered {_text(now)} now")
            if more.call is not None:
                raise Differs(f"answered {_text(now)} already, and in the recording not before {more.call.operation}")
            before = more.answer
        if json.dumps(now.to_json()) != json.dumps(before.to_json()):
            raise Differs(f"recorded {_text(before)}, now {_text(now)}")


class _OnMonolithic(OnMachine):
    """Xen and Dom0's drivers."""

    def __init__(self, path: Path, rules: Rules, rules_on: bool) -> None:
        super().__init__(path, MONOLITHIC, rules_on)
        self.rules = rules
        self.target: Interleaved | None = None

    def begin(self, seed: int) -> None:
        self.target = Interleaved(Lockstep(self.rules, seed, FULL_EVERY, CLAIMS_EVERY, self.rules_on))
        self.target.meanwhile = self._meanwhile

    def steps(self) -> int:
        return self.target.lockstep.spec_state.steps if self.target is not None else 0

    def carry_out(self, call: Call, before: Answer | None) -> Answer:
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
            event = self.next()
            if event is None or (event.answer is not None and event.call is None):
                self.line, self.call = outer
                raise Differs("a hypercall of the kernel is still in flight, and in the recording it had returned")
            if event.call is not None:
                self.one(event)
        self.line, self.call = outer


class _OnRules(_Playing):
    """The rules alone: each recorded step must give the same answer."""

    def __init__(self, path: Path, header: Header, system: Playable) -> None:
        super().__init__(path, system.table)
        if not header.steps:
            raise BadCalls(f"{path}: recorded without the rules (--against nothing), so it has no steps of theirs to take")
        self.system = system
        self.steps = 0
        self.state: Steps | None = None

    def rule_steps(self) -> int:
        """The number of rule steps."""
        return self.steps

    def play(self, events: Iterator[Event]) -> None:
        """All lines."""
        for event in events:
            self.come_to(event)
            if event.call is not None and event.call.operation == MACHINE:
                self.state = self.system.state()
            for label, args, code, fail in event.steps:
                now = self._step(label, args, fail)
                if now != code:
                    raise Differs(f"`{label}` with {args}: recorded {code}, now {now}")
            if event.call is not None and event.call.operation in ("end", "claims") and self.state is not None:
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


def playable(rules: Callable[[], Rules]) -> Playable:
    """Calls of campaigns on `monolithic`."""
    return Playable(MONOLITHIC, lambda path, on: _OnMonolithic(path, rules(), on), lambda: SpecState(rules(), 0))

"""Explores all reachable states of a small world, breadth first: decides claims, finds shortest attacks and dead steps.

Thousands of states are stepped at once (`columns.py`). Symmetry reduction: elements of a sort are interchangeable, because
the language has no order and constants are ordinary columns, so of states that differ by a renaming one is kept. States of
up to 64 bits are compared exactly, larger ones by a 64-bit hash; the probability of a hidden state is reported. A search
reports whether it is complete for its world, or where it stopped. It says nothing about larger worlds.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bulkhead.model.choices import in_world
from bulkhead.model.ir import Claim, System, Transition
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import State, World
from bulkhead.proofs.theorems.columns import Batch, Bytes, Effort, Formulas, Layout, OutOfEffort, plan_of
from bulkhead.proofs.theorems.initial_columns import initial_columns

Keys = NDArray[np.uint64]
STATES = 2_000_000  # default maximum of kept states
RENAMINGS = 120  # maximum of renamings per state; fewer only mean that more states are kept
BATCH = 8192  # states stepped at once
TRIED = 1  # states tried to find initial ones, for each step that may be taken
GROUP = 4096  # entries of a table for some columns
WIDEST = 2000  # columns of a state


@dataclass(frozen=True)
class Limits:
    """Limits of a search: depth, states, seconds or steps in all. Otherwise it runs to completion.

    With `whole` it continues even after every claim is broken. If there are more than `starts` initial states, it
    begins only with those in which places that no `init` speaks of hold their first value: or it would stop there.
    """

    depth: int | None = None
    states: int = STATES
    seconds: float = math.inf
    taken: float = math.inf
    choices: float = math.inf  # of variables and arguments
    starts: float = math.inf
    whole: bool = False
    renamed: bool = False  # no symmetry reduction: also keep states that differ only by a renaming


@dataclass(frozen=True)
class Exploration:
    """The result of a search.

    All states reachable in `depth` steps were visited; `complete` means that there are no further
    states, else `stopped` is the reason. `levels` counts the new states at each depth.
    `attacks` holds a shortest trace for each broken claim. `never` are steps that are enabled in no visited state.
    `hidden` bounds the probability that a hash collision hid a state. `every_start` means that all initial states were
    visited, and `tried` counts the partial states tried to find them; `all_starts` is their number if that is known and
    some were left out for it (`Limits.starts`), else 0. `final` counts the states, of those from which every step was tried,
    from which no step leads to another state, and `to_final` is a shortest trace to one; only with `Limits.whole`.
    """

    sizes: dict[str, int]
    states: int
    depth: int
    levels: tuple[int, ...]
    complete: bool
    stopped: str
    initial: int
    taken: int  # steps
    fired: frozenset[str]
    never: tuple[str, ...]
    attacks: dict[str, Trace]
    renamings: int
    hidden: float
    seconds: float
    every_start: bool = True
    tried: int = 0
    choices: int = 0  # of variables and arguments
    all_starts: int = 0
    final: int = 0
    to_final: Trace | None = None


class _Identity:
    """Keys of states: equal if the states are equal or differ only by a renaming of elements."""

    def __init__(self, layout: Layout, every: bool = False) -> None:
        """With `every`, renamed states also have different keys."""
        bits = [max(1, (layout.size(kind) - 1).bit_length()) for kind in layout.kinds]
        self.exact = sum(bits) <= 64
        rng = np.random.default_rng(1)
        if self.exact:
            shifts = np.concatenate([[0], np.cumsum(bits)[:-1]]).astype(np.uint64)
            plain = np.arange(256, dtype=np.uint64)[None, :] << shifts[:, None]
        else:
            plain = rng.integers(0, 2**64, size=(layout.width, 256), dtype=np.uint64)
        self.groups = _groups([layout.size(kind) for kind in layout.kinds])
        self.tables = [
            [_sums(plain, columns, values, group) for group in self.groups]
            for columns, values in _renamings(layout, 1 if every else RENAMINGS)
        ]

    def __call__(self, states: Bytes) -> tuple[NDArray[np.intp], Keys]:
        """The indices of the first of equal states, and a key for each: the least key of all its renamings."""
        numbers = [_numbers(states, group) for group in self.groups]
        plain = _sum_of(self.tables[0], numbers, states.shape[1])
        _, first = np.unique(plain, return_index=True)
        return first, self._least([n[first] for n in numbers], len(first))

    def keys(self, states: Bytes) -> Keys:
        """The key of each state."""
        return self._least([_numbers(states, group) for group in self.groups], states.shape[1])

    def _least(self, numbers: list[NDArray[np.uint16]], count: int) -> Keys:
        best = _sum_of(self.tables[0], numbers, count)
        for tables in self.tables[1:]:
            best = np.minimum(best, _sum_of(tables, numbers, count))
        return best


Group = list[tuple[int, int]]  # columns that share a lookup table: each with the number of its values


def _groups(sizes: list[int]) -> list[Group]:
    """Groups of neighbouring columns, as many as fit in a small lookup table."""
    groups: list[Group] = []
    room = 0
    for column, size in enumerate(sizes):
        if not groups or room * size > GROUP:
            groups.append([])
            room = 1
        groups[-1].append((column, size))
        room *= size
    return groups


def _numbers(states: Bytes, group: Group) -> NDArray[np.uint16]:
    """The value of a group of columns, as one number for each state."""
    number = np.zeros(states.shape[1], dtype=np.uint16)
    for column, size in group:
        number *= np.uint16(size)
        number += states[column]
    return number


def _sums(plain: Keys, columns: NDArray[np.intp], values: NDArray[np.intp], group: Group) -> Keys:
    """The contribution of a group of columns to the key of a renamed state, for each of its values."""
    total = np.zeros(1, dtype=np.uint64)
    for column, size in group:
        total = (total[:, None] + plain[columns[column], values[column, :size]][None, :]).ravel()
    return total


def _sum_of(tables: list[Keys], numbers: list[NDArray[np.uint16]], count: int) -> Keys:
    key = np.zeros(count, dtype=np.uint64)
    for table, number in zip(tables, numbers, strict=True):
        key += table[number]
    return key


def _renamings(layout: Layout, most: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each renaming of elements: the target of each column, and the image of each value."""
    system = layout.system
    moved: dict[str, int] = {}  # of each sort, how many elements change places with each other: of large sorts some
    count = 1
    for sort in sorted(layout.sizes, key=layout.sizes.__getitem__):
        some = max(k for k in range(1, layout.sizes[sort] + 1) if k == 1 or count * math.factorial(k) <= most)
        if some > 1:
            moved[sort] = some
            count *= math.factorial(some)
    out = []
    for choice in itertools.product(*(itertools.permutations(range(k)) for k in moved.values())):
        new = {}
        for (sort, some), order in zip(moved.items(), choice, strict=True):
            kept = layout.sizes[sort] - some  # the first elements stay: those are what constants name
            new[sort] = (*range(kept), *(kept + k for k in order))
        columns = list(range(len(layout.consts)))
        for func in system.funcs.values():
            ranges = [range(layout.size(s)) for s in func.args]
            for args in itertools.product(*ranges):
                at = 0
                for value, sort in zip(args, func.args, strict=True):
                    at = at * layout.size(sort) + (new[sort][value] if sort in new else value)
                columns.append(layout.base[func.name] + at)
        values = np.tile(np.arange(256, dtype=np.intp), (layout.width, 1))
        for k, kind in enumerate(layout.kinds):
            if kind in new:
                values[k, : len(new[kind])] = new[kind]
        out.append((np.array(columns, dtype=np.intp), values))
    return out


@dataclass
class _Seen:
    """A growing set of keys: sorted arrays, each at least twice as long as the next."""

    arrays: list[Keys] = field(default_factory=list)

    def add_new(self, keys: Keys) -> NDArray[np.intp]:
        """The indices of the first occurrence of each new key; adds these keys to the set."""
        values, places = np.unique(keys, return_index=True)
        new = np.ones(len(values), dtype=bool)
        for known in self.arrays:
            at = np.searchsorted(known, values)
            at[at == len(known)] = 0
            new &= known[at] != values
        added = values[new]
        if len(added):
            self.arrays.append(added)
        while len(self.arrays) > 1 and len(self.arrays[-1]) * 2 > len(self.arrays[-2]):
            last = self.arrays.pop()
            self.arrays[-1] = np.sort(np.concatenate([self.arrays[-1], last]), kind="stable")
        return np.sort(places[new])


@dataclass(frozen=True)
class _Level:
    """New states at one depth: their columns, and the predecessor and call of each."""

    columns: Bytes
    parents: NDArray[np.int64]  # indices in the previous level
    steps: NDArray[np.int32]  # indices in the list of calls


class _Search:
    def __init__(
        self,
        system: System,
        sizes: Mapping[str, int],
        claims: Iterable[Claim],
        limits: Limits,
        labels: frozenset[str] | None = None,
    ) -> None:
        """`labels` restricts the steps that are taken; default: all."""
        self.begun = time.perf_counter()
        self.system, self.limits = system, limits
        self.layout = Layout(system, dict(sizes))
        self.effort = Effort(limits.choices, self.begun + limits.seconds)
        self.formulas = Formulas(self.layout, self.effort)
        self.claims = {c.name: c for c in claims}
        self.two_state = any(c.kind == "transition" for c in self.claims.values())
        self.plans = [
            plan_of(
                in_world(system, self.layout.world(), t)
                for t in (s.outcomes() if self.two_state else s.transitions())
                if labels is None or t.label in labels
            )
            for s in system.steps
        ]
        self.identity = _Identity(self.layout, limits.renamed)
        self.seen = _Seen()
        self.calls: list[tuple[Transition, tuple[int, ...]]] = []
        self.number: dict[tuple[str, tuple[int, ...]], int] = {}
        self.levels: list[_Level] = []
        self.attacks: dict[str, Trace] = {}
        self.fired: set[str] = set()
        self.count = self.taken = self.final = 0
        self.to_final: Trace | None = None
        self.stopped = ""

    def run(self, start: Bytes | None = None) -> Exploration:
        """Search from `start`, or from all initial states."""
        all_of_them, tried, initial, all_starts = start is not None, 0, 0, 0
        depth, complete = 0, False
        try:
            if start is None:
                most, room = self.limits.states, TRIED * self.limits.taken
                found = initial_columns(self.layout, self.formulas, most, room, self.limits.starts)
                start, all_of_them, tried, all_starts = found.columns, found.every, found.tried, found.all
            first = self._new(start)
            self._keep(start[:, first], np.zeros(len(first), np.int64), np.zeros(len(first), np.int32))
            initial = self.count
            depth, complete = self._to_the_end()
        except OutOfEffort as error:
            self.stopped = str(error)
            depth = max(0, len(self.levels) - 1)
        if complete and not all_of_them:
            complete, self.stopped = False, "not all initial states were tried: there are too many"
        bits = 0.0 if self.identity.exact else min(1.0, self.count**2 / 2.0**65)
        labels = [t.label for p in self.plans for t in p.transitions if not t.changes_nothing]
        return Exploration(
            dict(self.layout.sizes),
            self.count,
            depth,
            tuple(lv.columns.shape[1] for lv in self.levels),
            complete,
            self.stopped,
            initial,
            self.taken,
            frozenset(self.fired),
            tuple(la for la in labels if la not in self.fired) if complete else (),
            self.attacks,
            len(self.identity.tables),
            bits,
            time.perf_counter() - self.begun,
            all_of_them,
            tried,
            self.effort.choices,
            all_starts,
            self.final,
            self.to_final,
        )

    def _to_the_end(self) -> tuple[int, bool]:
        """Level by level: the depth that was reached, and whether there are no further states."""
        depth = 0
        while not self.stopped:
            if self.claims and not self.open_claims() and not self.limits.whole:
                self.stopped = "every claim is broken"
            elif self.limits.depth is not None and depth >= self.limits.depth:
                self.stopped = f"at {depth} steps, as asked"
            elif not self._deepen():
                return depth, not self.stopped
            else:
                depth += not self.stopped
        return depth, False

    def _new(self, states: Bytes) -> NDArray[np.intp]:
        """The indices of states not seen before."""
        if not states.shape[1]:
            return np.arange(0)
        places, keys = self.identity(states)
        return np.sort(places[self.seen.add_new(keys)])

    def open_claims(self) -> list[Claim]:
        return [c for n, c in self.claims.items() if n not in self.attacks]

    def _keep(self, columns: Bytes, parents: NDArray[np.int64], steps: NDArray[np.int32]) -> None:
        """Add the new states of a level, and check whether they break a claim. Only a level that was checked whole stays."""
        self.levels.append(_Level(columns, parents, steps))
        try:
            self._check_states(columns)
        except OutOfEffort:
            self.levels.pop()
            raise
        self.count += columns.shape[1]

    def _check_states(self, columns: Bytes) -> None:
        for begin in range(0, columns.shape[1], BATCH):
            batch = Batch(self.formulas, columns[:, begin : begin + BATCH])
            for claim in self.open_claims():
                if claim.kind != "transition":
                    holds = batch.truth(claim.body, {})
                    if holds is False or (not isinstance(holds, bool) and not holds.all()):
                        bad = 0 if isinstance(holds, bool) else int(np.argmin(holds))
                        self._attack(claim, begin + bad, None)

    def _deepen(self) -> bool:
        """Take every step from the last level; False if nothing new is reached, or the search stopped."""
        last = self.levels[-1].columns
        made: list[Bytes] = []
        parents: list[NDArray[np.int64]] = []
        steps: list[NDArray[np.int32]] = []
        new = 0
        for begin in range(0, last.shape[1], BATCH):
            if time.perf_counter() - self.begun > self.limits.seconds:
                self.stopped = f"after {self.limits.seconds:.0f} s"
                return False
            if self.taken > self.limits.taken:
                self.stopped = f"after {self.limits.taken:,.0f} steps in all"
                return False
            if self.count + new > self.limits.states:
                self.stopped = f"at {self.limits.states:,} states"
                return False
            after, rows, calls = self._stepped(Batch(self.formulas, last[:, begin : begin + BATCH]), begin)
            if not after.shape[1]:
                continue
            kept = self._new(after)
            new += len(kept)
            if len(kept):
                made.append(after[:, kept])
                parents.append(rows[kept] + begin)
                steps.append(calls[kept])
        if not made:
            return False
        self._keep(np.concatenate(made, axis=1), np.concatenate(parents), np.concatenate(steps))
        return True

    def _stepped(self, batch: Batch, begin: int) -> tuple[Bytes, NDArray[np.int64], NDArray[np.int32]]:
        """Every step of every state of a batch: the states after, the rows before, and the calls."""
        after: list[Bytes] = []
        rows_of: list[NDArray[np.intp]] = []
        calls: list[NDArray[np.int32]] = []
        final = np.full(batch.columns.shape[1], self.limits.whole)  # as far as the steps so far tell
        for plan in self.plans:
            for taken in batch.taken(plan):
                t, args, rows = taken.transition, taken.args, taken.rows
                self.fired.add(t.label)
                if t.changes_nothing and not self.two_state:
                    continue
                number = self.number.setdefault((t.label, args), len(self.calls))
                if number == len(self.calls):
                    self.calls.append((t, args))
                after.append(batch.columns[:, rows] if t.changes_nothing else batch.stepped(t, args, rows))
                if (unmoved := final[rows]).any():
                    before = batch.columns[:, rows[unmoved]]
                    final[rows[unmoved]] = (after[-1][:, unmoved] == before).all(axis=0)
                rows_of.append(rows)
                calls.append(np.full(len(rows), number, np.int32))
                self.taken += len(rows)
        self.final += int(final.sum())
        if self.to_final is None and final.any():
            self.to_final = self._path("", begin + int(np.argmax(final)), None)
        if not after:
            return batch.columns[:, :0], np.zeros(0, np.int64), np.zeros(0, np.int32)
        states, rows, called = np.concatenate(after, axis=1), np.concatenate(rows_of), np.concatenate(calls)
        self._look_at_steps(batch, states, rows, called, begin)
        return states, rows.astype(np.int64), called

    def _look_at_steps(
        self, batch: Batch, after: Bytes, rows: NDArray[np.intp], calls: NDArray[np.int32], begin: int
    ) -> None:
        """Check whether a step breaks a claim about steps."""
        claims = [c for c in self.open_claims() if c.kind == "transition"]
        if not claims:
            return
        failing = np.array([bool(t.code) for t, _ in self.calls])
        for at in range(0, after.shape[1], BATCH):
            part = slice(at, at + BATCH)
            both = Batch(self.formulas, batch.columns[:, rows[part]], after[:, part])
            for claim in claims:
                holds = both.truth(claim.body, {"failed": failing[calls[part]]})
                if claim.name in self.attacks or holds is True or (not isinstance(holds, bool) and holds.all()):
                    continue
                bad = at + (0 if isinstance(holds, bool) else int(np.argmin(holds)))
                self._attack(claim, begin + int(rows[bad]), int(calls[bad]))

    def _attack(self, claim: Claim, place: int, last_call: int | None) -> None:
        """Record the path to a state of the last level, and one more call if a step breaks the claim."""
        self.attacks[claim.name] = self._path(claim.name, place, last_call)

    def _path(self, name: str, place: int, last_call: int | None) -> Trace:
        """A shortest path to a state of the last level, and one more call if there is one."""
        events = []
        if last_call is not None:
            events.append(self._event(last_call))
        for level in reversed(self.levels[1:]):
            events.append(self._event(int(level.steps[place])))
            place = int(level.parents[place])
        world, state = self.layout.state(self.levels[0].columns[:, place])
        return Trace(self.system.name, (), name, world, state, tuple(reversed(events)), excluded=len(events) - 1)

    def _event(self, number: int) -> Event:
        t, args = self.calls[number]
        return Event(t.label, {p.name: v for p, v in zip(t.params, args, strict=True)})


def explore(
    system: System,
    sizes: Mapping[str, int],
    claims: Sequence[Claim] = (),
    limits: Limits | None = None,
    labels: frozenset[str] | None = None,
) -> Exploration:
    """Search all reachable states of a world in which each sort has so many elements, for violations of some claims.

    With claims, the search ends when each is broken. `labels` names the only steps that are taken. Raises ValueError where a
    state has more columns than `WIDEST`, values that do not fit, or a step too many ways to choose.
    """
    refusal = Layout(system, dict(sizes)).refusal(WIDEST)
    if refusal is not None:
        raise ValueError(refusal)
    return _Search(system, sizes, claims, limits or Limits(), labels).run()


@dataclass(frozen=True)
class Graph:
    """The states of a world, initial ones first, and the steps between them, modulo renaming."""

    states: tuple[tuple[World, State], ...]
    initial: int
    edges: tuple[tuple[int, int, str], ...]


def explore_graph(system: System, sizes: Mapping[str, int], most: int) -> Graph | None:
    """The graph of all reachable states; None if there are more than `most`."""
    search = _Search(system, sizes, (), Limits(states=most, whole=True))
    found = search.run()
    if not found.complete or found.states > most:
        return None
    every = np.concatenate([level.columns for level in search.levels], axis=1)
    number = {int(key): k for k, key in enumerate(search.identity.keys(every))}
    edges = dict[tuple[int, int, str], None]()
    batch = Batch(search.formulas, every)
    for plan in search.plans:
        for taken in batch.taken(plan):
            after = search.identity.keys(batch.stepped(taken.transition, taken.args, taken.rows))
            for row, key in zip(taken.rows, after, strict=True):
                edges[int(row), number[int(key)], taken.transition.label] = None
    return Graph(tuple(search.layout.state(every[:, k]) for k in range(every.shape[1])), found.initial, tuple(edges))


__all__ = ["STATES", "Exploration", "Graph", "Limits", "explore", "explore_graph"]

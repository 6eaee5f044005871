"""The protocols that stand beside the rules in another tool's language, written by hand: what Spin and TLC are asked.

Models of other tools begin in one state; rules often leave some of it open, for example what lies in an invalid cache.
So each has a `beginning`: what the rules are told in addition, as text, so that they begin in that state, too. Nothing of
a model is made from the rules.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from bulkhead.model.ir import System
from bulkhead.model.loader import load
from tests.examples.attacks import HERE


@dataclass(frozen=True)
class Model:
    """A protocol in a small world. `file` is the model; `options` are macros for Spin, or constants for TLC."""

    file: Path
    system: str
    sizes: dict[str, int]
    options: tuple[str, ...]
    claims: tuple[str, ...]  # that the model states, too
    faults: tuple[str, ...] = ()  # that it has
    beginning: str = ""

    @property
    def name(self) -> str:
        return "-".join([self.system, *(f"{sort}{size}" for sort, size in self.sizes.items())])

    def rules(self, folder: Path, fault: str = "") -> System:
        """The rules with their beginning, by way of a file in a folder."""
        text = (HERE / f"{self.system}.rules").read_text(encoding="utf-8")
        body, found, end = text.rpartition(f"\nsystem {self.system} ")
        assert found, f"{self.system}.rules has no system of its name"
        own = f'\ncomponent beginning "The one state in which the model begins."\nuses {self.system}\n{self.beginning}\n'
        end = re.sub(r"\n    uses (\w+)", r"\n    uses \1, beginning", end, count=1)
        file = folder / f"{self.system}.rules"
        file.write_text(body + own + found + end, encoding="utf-8")
        return load(str(file), [fault] if fault else [])


def _spin(system: str, sizes: dict[str, int], claims: str, faults: str = "", beginning: str = "", size: int = 0) -> Model:
    options = (f"N={size}",) if size else ()
    return Model(
        HERE / "promela" / f"{system}.pml", system, sizes, options, tuple(claims.split()), tuple(faults.split()), beginning
    )


def _ring(nodes: int) -> str:
    """Node k comes behind node k - 1, and has the number nodes - 1 - k."""
    ns, xs = [f"n{k}" for k in range(nodes)], [f"x{k}" for k in range(nodes)]
    lines = [*(f"const {n}: Node" for n in ns), *(f"const {x}: Number" for x in xs)]
    lines += [f"init distinct({', '.join(names)})" for names in (ns, xs)]
    lines += [f"init number[{n}] = {x}" for n, x in zip(ns, reversed(xs), strict=True)]
    lines += [f"init at_most[{a}, {b}]" for a, b in itertools.pairwise(xs)]
    return "\n".join([*lines, "init between[n0, n1, n2]" if nodes == 3 else ""])


SPIN = (
    _spin("two_phase_commit", {"Manager": 2}, "all_or_nothing", "abort_after_prepare impatient forged", size=2),
    _spin("two_phase_commit", {"Manager": 3}, "all_or_nothing", size=3),
    _spin("two_phase_commit", {"Manager": 4}, "all_or_nothing", size=4),
    _spin("lock_server", {"Node": 2}, "mutual_exclusion", "grants_twice not_noted released_and_held return_copied", size=2),
    _spin("lock_server", {"Node": 3}, "mutual_exclusion", size=3),
    _spin("lock_server", {"Node": 4}, "mutual_exclusion", size=4),
    _spin("peterson", {}, "mutual_exclusion", "no_fence takes_turn no_turn stores_reordered", "init turn = left"),
    _spin(
        "ring_leader",
        {"Node": 2, "Number": 2},
        "one_leader leader_is_highest",
        "passes_all wins_by_any",
        _ring(2),
        size=2,
    ),
    _spin("ring_leader", {"Node": 3, "Number": 3}, "one_leader leader_is_highest", "jumps", _ring(3), size=3),
    _spin(
        "mesi",
        {"Cache": 2, "Value": 2},
        "single_writer reads_latest",
        "no_invalidation writes_shared drops_modified no_write_back looks_nowhere",
        "const zero: Value\ninit forall c: Cache, l: Line. cache[c, l].value = zero and memory[l] = zero",
    ),
    _spin(
        "german",
        {"Client": 2, "Data": 2},
        "single_writer reads_latest",
        "grants_beside_sharers shares_the_exclusive keeps_copy unlisted data_not_taken order_overwritten",
        """const zero: Data
        const one: Client
        init forall c: Client. cache[c].data = zero and order[c].data = zero and answer[c].data = zero
        init memory = zero and current.client = one""",
    ),
)

PAXOS_FAULTS = "votes_after_promise forgets_votes proposes_alone any_vote_will_do proposes_twice"
ROUNDS = """const r1: Round
        const r2: Round
        init distinct(none, r1, r2) and at_most[r1, r2]"""


def _tlc(module: str, system: str, sizes: dict[str, int], options: str, claims: str, faults: str, beginning: str) -> Model:
    constants = tuple(c.strip() for c in options.split(";"))
    return Model(
        HERE / "tla" / f"{module}.tla", system, sizes, constants, tuple(claims.split()), tuple(faults.split()), beginning
    )


def _two_phase(managers: str, faults: str = "") -> Model:
    claims = "all_or_nothing decided_for_good only_prepared_commit"
    sizes = {"Manager": managers.count(",") + 1}
    return _tlc("TwoPhaseCommit", "two_phase_commit", sizes, f"Manager = {managers}", claims, faults, "")


def _lock(nodes: str, faults: str = "") -> Model:
    sizes = {"Node": nodes.count(",") + 1}
    return _tlc("LockServer", "lock_server", sizes, f"Node = {nodes}", "mutual_exclusion", faults, "")


TLC = (
    _two_phase("{m0, m1}", "abort_after_prepare impatient second_thoughts forged"),
    _two_phase("{m0, m1, m2}"),
    _two_phase("{m0, m1, m2, m3}"),
    _lock("{n0, n1}", "grants_twice not_noted released_and_held return_copied"),
    _lock("{n0, n1, n2}"),
    _lock("{n0, n1, n2, n3}"),
    _tlc(
        "Paxos",
        "paxos",
        {"Acceptor": 1, "Quorum": 1, "Round": 3, "Value": 2},
        "Acceptor = {a0}; Quorum = {{a0}}; Value = {v, w}; Last = 2",
        "agreement",
        PAXOS_FAULTS,
        f"{ROUNDS}\ninit forall a: Acceptor, q: Quorum. member[a, q]",
    ),
    _tlc(
        "Paxos",
        "paxos",
        {"Acceptor": 2, "Quorum": 2, "Round": 3, "Value": 2},
        "Acceptor = {a0, a1}; Quorum = {{a0, a1}, {a1}}; Value = {v, w}; Last = 2",
        "agreement",
        "learns_from_one",
        f"""{ROUNDS}
        const a0: Acceptor
        const a1: Acceptor
        const q0: Quorum
        const q1: Quorum
        init a0 != a1 and q0 != q1
        init member[a0, q0] and member[a1, q0] and not member[a0, q1] and member[a1, q1]""",
    ),
)

__all__ = ["SPIN", "TLC", "Model"]

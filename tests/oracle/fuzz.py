"""Compares Bulkhead with the interpreter on random systems: `python -m tests.oracle.fuzz --systems N --seed S`.

For a difference it prints the kind, the seed and the rules file, shrunk as far as it still differs in the same way.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bulkhead.model.diagnostics import RulesError
from bulkhead.proofs.jobs import Workers
from tests.oracle.compare import Budget, Seen, differences
from tests.oracle.coverage import report
from tests.oracle.draft import Draft, smaller
from tests.oracle.generate import draft

SHRINKING = 150  # attempts
PART = 250  # systems, after which a long run says how far it is
EXPORT_EVERY = 4  # systems, of one the exported queries are asked


@dataclass(frozen=True)
class Difference:
    """A difference between two semantics of a system."""

    seed: int
    kind: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.what}\n{self.text}"


def first_difference(made: Draft, seed: int, budget: Budget, seen: Seen) -> str | None:
    """The first difference, or None; a crash counts as a difference."""
    try:
        return next(differences(made.text(), seed, budget, seen), None)
    except RulesError:
        seen.refused += 1
        return None
    except Exception as error:
        return f"crash {type(error).__name__}: {str(error)[:200]} ({_where(error)})"


def _where(error: BaseException) -> str:
    """The last places that a crash went through: a crash that does not come again is all that there is to see."""
    places = traceback.extract_tb(error.__traceback__)[-4:]
    cause = f", after {error.__context__!r}" if error.__context__ is not None else ""
    return " > ".join(f"{Path(p.filename).name}:{p.lineno} {p.name}" for p in places) + cause


def kind_of(what: str) -> str:
    """The property that must stay while a file is shrunk."""
    words = what.split()
    return " ".join(words[:2]) if words[0] == "crash" else words[0] + (" confirmed" if "confirmed" in what else "")


def shrunk(made: Draft, seed: int, budget: Budget, kind: str) -> tuple[Draft, str]:
    """The smallest draft found that differs in the same way."""
    what = first_difference(made, seed, budget, Seen()) or ""
    tried = 0
    again = True
    while again and tried < SHRINKING:
        again = False
        for less in smaller(made):
            tried += 1
            if tried >= SHRINKING:
                break
            found = first_difference(less, seed, budget, Seen())
            if found is not None and kind_of(found) == kind:
                made, what, again = less, found, True
                break
    return made, what


def run_part(task: tuple[int, int, int, int, bool]) -> tuple[Seen, list[Difference]]:
    """A range of seeds: from, to, step, and an attack search for every n-th system."""
    begin, end, step, attack_every, shrink = task
    seen = Seen()
    found: list[Difference] = []
    kinds: Counter[str] = Counter()
    for seed in range(begin, end, step):
        try:
            made = draft(seed)
        except LookupError:
            seen.unmade += 1
            continue
        budget = Budget(worlds=1, attack=seed % attack_every == 0, export=seed % EXPORT_EVERY == 0)
        what = first_difference(made, seed, budget, seen)
        if what is not None:
            kind = kind_of(what)
            kinds[kind] += 1
            if shrink and kinds[kind] <= 3:
                made, what = shrunk(made, seed, replace(budget, worlds=budget.worlds), kind)
            found.append(Difference(seed, kind, what, made.text()))
    return seen, found


def fuzz(
    systems: int,
    seed: int,
    jobs: int,
    attack_every: int = 8,
    shrink: bool = True,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[Seen, list[Difference]]:
    """Compare so many random systems, in so many processes; `told` hears of each part that is done."""
    parts = max(jobs * 4, systems // PART)
    tasks = [(seed + k, seed + systems, parts, attack_every, shrink) for k in range(parts)]
    seen = Seen()
    differences: list[Difference] = []
    with Workers(jobs) as workers:
        for done, (part, found) in enumerate(workers.map(run_part, tasks), 1):
            differences += found
            for name in vars(part):
                setattr(seen, name, getattr(seen, name) + getattr(part, name))
            told(f"{done} of {parts} parts, {len(differences)} differences: {seen}")
    return seen, differences


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--attack-every", type=int, default=8, help="look for an attack on every so many-th system")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--forms", action="store_true", help="compare nothing; say which forms of the language these have")
    given = parser.parse_args()
    if given.forms:
        text, absent = report(range(given.seed, given.seed + given.systems))
        print(text)
        return 1 if absent else 0
    begun = time.perf_counter()

    def tell(how_far: str) -> None:
        print(f"{how_far}, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)

    seen, found = fuzz(given.systems, given.seed, given.jobs, given.attack_every, not given.no_shrink, tell)
    for d in found:
        print(f"{d}\n{'-' * 80}")
    print(Counter(d.kind for d in found))
    print(f"{seen}, {time.perf_counter() - begun:.1f} s")
    print(
        f"{seen.systems - seen.uncompared} systems compared, {seen.uncompared} could not be; "
        f"{seen.refused} drafts are no rules, {seen.unmade} seeds gave none"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.mutants --of domb --sample N --seed S`: random one-place faults, their detectors, and the survivors.

A survivor is a blind spot or an equivalent mutant; a person must decide which. Exit code 1 when some survive.
"""

from __future__ import annotations

import argparse
import collections
import sys

from tests.lines_run import ready, runners
from tests.mutants.asking import ask, fits
from tests.mutants.places import SUBJECTS, every_mutant, sample


def main(words: list[str]) -> int:
    """Test the mutants, print one line for each, and a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--of", choices=[*SUBJECTS], default="xen", help="what is changed (xen)")
    parser.add_argument("--sample", type=int, default=50, metavar="N", help="how many mutants (50)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which ones (1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose line of text contains this")
    parser.add_argument("--quick", action="store_true", help="without long campaigns")
    parser.add_argument("--list", action="store_true", help="show them, and run nothing")
    given = parser.parse_args(words)
    every = every_mutant(given.of)
    chosen = [m for m in every if given.only in m.text()] if given.only else sample(given.sample, given.seed, given.of)
    chosen = [m for m in chosen if fits(m)]
    if given.list:
        print("\n".join(m.text() for m in chosen))
        return 0
    asked = runners(lambda line: print(line, file=sys.stderr, flush=True), given.of)
    asked = [r for r in asked if not (given.quick and r.kind == "long campaign")]
    ready(given.of)  # once, before processes are forked
    by: collections.Counter[str] = collections.Counter()
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        answer = ask(mutant, asked)
        by[answer.by or "nobody"] += 1
        if not answer.by:
            survivors.append(answer)
        told = f"{answer.by}: {answer.how[:90]}" if answer.by else f"SURVIVES ({answer.asked} asked)"
        print(f"{number}/{len(chosen)} {mutant.text()}: {told}", flush=True)
    print(
        f"\n{len(chosen) - len(survivors)} of {len(chosen)} noticed: "
        + ", ".join(f"{n} by {who}" for who, n in by.most_common())
    )
    for answer in survivors:
        where = "nothing runs this line" if not answer.asked else f"{answer.asked} asked"
        print(f"  {answer.mutant.text()} ({where})")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

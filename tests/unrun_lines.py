"""`python -m tests.unrun_lines --of xen`: lines that neither a campaign nor a recording of real Xen runs.

`xen` is the hypervisor and Dom0's drivers; `domb` is DomB, its tools, the daemons and their rings, and `libs` the libraries
below them, whose lines are run by campaigns of `disaggregated` and by the proofs of DomB's handlers. At most unit tests
notice a fault on such a line; lines that unit tests do not run either are marked with `!`. This says nothing about other
lines: the effect of a covered line may still not be compared (`python -m tests.mutants`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.lines_run import ROOT, Runner, every_line, runners
from tests.mutants.places import SUBJECTS
from tests.unrun_argued import functions, reason

COMPARED = ("recording", "preempted", "campaign", "refine")  # what the rules or real Xen answer too


def unrun(lines: Mapping[str, frozenset[int]], found: Sequence[Runner], kinds: Sequence[str]) -> dict[str, frozenset[int]]:
    """The lines that no runner of these kinds runs, by file, without completely covered files."""
    left = {
        file: here.difference(*(r.lines.get(file, frozenset()) for r in found if r.kind in kinds))
        for file, here in lines.items()
    }
    return {file: here for file, here in left.items() if here}


def report(lines: Mapping[str, frozenset[int]], found: Sequence[Runner], texts: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for each uncovered line of source without a reason, the reasons of the others, and the sums."""
    compared = unrun(lines, found, COMPARED)
    nobody = unrun(lines, found, (*COMPARED, "unit"))
    out, argued = [], Counter[str]()
    for file, here in compared.items():
        names = functions("\n".join(texts[file]))
        for line in sorted(here):
            text = texts[file][line - 1].strip()
            told = reason(file, names.get(line, ""), text)
            argued[told] += 1
            if not told:
                out.append(f"impl/{file}:{line}{'!' if line in nobody.get(file, ()) else ' '} {text}")
    left = argued.pop("", 0)
    total = sum(map(len, lines.values()))
    return [
        *out,
        *(f"{count} lines: {told}" for told, count in argued.most_common()),
        f"{sum(map(len, compared.values()))} of {total:,} lines are run by no campaign, recording or proof: "
        f"{argued.total()} for the reasons above, {left} others; "
        f"{sum(map(len, nobody.values()))} of them by no unit test either (!).",
    ]


def main(words: list[str]) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.unrun_lines", description=__doc__)
    parser.add_argument("--of", choices=[*SUBJECTS], default="xen", help="whose lines (xen)")
    of = parser.parse_args(words).of
    lines = every_line(of)
    texts = {file: (ROOT / "impl" / file).read_text().splitlines() for file in lines}
    found = runners(lambda line: print(line, file=sys.stderr, flush=True), of)
    print("\n".join(report(lines, found, texts)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

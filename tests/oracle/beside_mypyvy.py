"""Proofs of a rules file beside mypyvy's: is everything inductive, and if not, which claim fails first after which step?

By hand, over random systems as far as they fit: `python -m tests.oracle.beside_mypyvy --systems N --seed S`; or a shipped
system, which takes mypyvy minutes: `python -m tests.oracle.beside_mypyvy --shipped hypervisor`. Each question
of mypyvy assumes all claims before a step and asks for one after it, so both should fail at the same ones. Not here: the
translation (`to_mypyvy.py`) and the running of mypyvy (`tests/oracles/mypyvy.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bulkhead.model.diagnostics import RulesError
from bulkhead.model.library import load_library
from bulkhead.model.loader import load
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.queries import INIT
from tests.oracle import to_mypyvy
from tests.oracle.faults import with_fault
from tests.oracle.generate import draft
from tests.oracle.instances import expanded, items_of
from tests.oracles import mypyvy

SPEC = Path(__file__).resolve().parent.parent.parent / "spec"
LIBRARY = sorted((SPEC / "library").glob("*.rules"))
DIFFERENT = "different"


Pair = tuple[str, str]  # a step, or the initial states, and a claim


@dataclass(frozen=True)
class Compared:
    """The first pair that fails, for each of the two, in the order in which mypyvy asks; None if there is none.

    mypyvy ends there, or at the first pair that is `undecided`. A proof may leave its own undecided, too: it is not
    `refuted` then.
    """

    order: tuple[Pair, ...]
    ours: Pair | None
    refuted: bool
    theirs: Pair | None
    undecided: Pair | None

    def difference(self) -> str:
        """How the answers contradict each other; nothing if they do not."""
        ours, theirs, open_ = (
            len(self.order) if p is None else self.order.index(p) for p in (self.ours, self.theirs, self.undecided)
        )
        if theirs < ours:
            return f"mypyvy refutes {self.theirs}, the proof does not"
        if self.refuted and ours < min(theirs, open_):
            return f"the proof refutes {self.ours}, mypyvy does not"
        return ""

    @property
    def whole(self) -> bool:
        """Did both come to an end?"""
        return self.undecided is None and (self.ours is None or self.refuted)


def translated(text: str, fault: str = "") -> to_mypyvy.Exported:
    """The only system of a rules file in mypyvy's language. Raises `Unfit`."""
    items = items_of(text, LIBRARY)
    return to_mypyvy.exported(with_fault(items, fault) if fault else items)


def translated_system(name: str) -> to_mypyvy.Exported:
    """A shipped system in mypyvy's language."""
    sources = {str(p): p.read_text(encoding="utf-8") for p in sorted(SPEC.rglob("*.rules"))}
    return to_mypyvy.exported(expanded(sources, [u.text for u in load_library().systems[name].uses]))


def compared(command: list[str], file: Path, fault: str = "", limit: float = 5.0) -> Compared:
    """Both provers on a rules file. Raises `Unfit` where it has no translation, `RulesError` where it is refused."""
    made = translated(file.read_text(encoding="utf-8"), fault)
    system = load(str(file), [fault] if fault else [])
    failing = {(r.label, r.claim): r.verdict for r in prove(system, Settings(limit, 1, cross_check=False)).first_failing}
    order = tuple((label, claim) for label in (INIT, *made.labels.values()) for claim in made.claims.values())
    ours = next((pair for pair in order if pair in failing), None)
    answer = mypyvy.verify(command, made.text, limit)

    def named(pair: Pair | None) -> Pair | None:
        return None if pair is None else (made.labels.get(pair[0], INIT), made.claims[pair[1]])

    refuted = ours is not None and failing[ours] == "sat"
    return Compared(order, ours, refuted, named(answer.failing), named(answer.undecided))


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.beside_mypyvy", description=__doc__)
    parser.add_argument("--systems", type=int, default=200, metavar="N", help="random systems that are tried")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--shipped", metavar="SYSTEM", help="only this shipped system, and only mypyvy's answer")
    given = parser.parse_args()
    command, reason = mypyvy.find()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    if given.shipped:
        made = translated_system(given.shipped)
        answer = mypyvy.verify(command, made.text, 20.0, 3600.0)
        where, claim = answer.failing or answer.undecided or ("", "")
        what = "not inductive" if answer.failing else "undecided" if answer.undecided else "inductive"
        print(f"{answer.asked} questions, {what} {made.labels.get(where, where)} {made.claims.get(claim, '')}".rstrip())
        return 0 if what == "inductive" else 1
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "made.rules"
        for seed in range(given.seed, given.seed + given.systems):
            kind, text = _one(command, file, seed)
            counts[kind] += 1
            if kind == DIFFERENT:
                print(f"seed {seed}: {text}\n{file.read_text(encoding='utf-8')}\n{'-' * 80}")
    print(dict(counts))
    return 1 if counts[DIFFERENT] else 0


def _one(command: list[str], file: Path, seed: int) -> tuple[str, str]:
    """What comes of one random system, and the difference."""
    try:
        file.write_text(draft(seed).text(), encoding="utf-8")
        found = compared(command, file, limit=2.0)
    except (LookupError, RulesError):
        return "refused", ""
    except to_mypyvy.Unfit:
        return "do not fit", ""
    except mypyvy.MypyvyError as error:
        return DIFFERENT, str(error)
    told = found.difference()
    if told:
        return DIFFERENT, told
    return ("inductive" if found.ours is None else "not inductive") if found.whole else "left undecided", ""


if __name__ == "__main__":
    sys.exit(main())

"""Explains a proof: its dependencies, and where a claim failed.

Not here: decisions. Everything is taken from the unsat cores and verdicts of the induction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bulkhead.model.ir import System, show
from bulkhead.proofs.theorems.induction import Proof
from bulkhead.proofs.theorems.queries import FOLLOWS, INIT, QueryMaker, Result

LINES = 8  # queries shown for one claim


def not_decided(proof: Proof, names: list[str]) -> str:
    """Explain in a few lines why claims are neither proved nor refuted."""
    broken = sorted({r.claim for r in proof.first_failing})
    lines = [f"Neither proved nor refuted, as no attack was found within the bounds of the search: {', '.join(names)}"]
    if broken:
        lines.append(f"  Their proofs depend, directly or not, on claims that are not inductive: {', '.join(broken)}")
    for name in names:
        if name in broken or not broken:
            lines += [f"  {text}" for text in non_inductive(proof, name)[:LINES]]
    return "\n".join(lines)


def latest(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    """The last answer to each query; a query is asked again when an invariant that it depended on was dropped."""
    return {(r.label, r.claim): r for r in results}


def claim_of(name: str) -> str:
    """The claim of an assumption's name, or "" if it is not an invariant or theorem."""
    kind, _, rest = name.partition("/")
    return rest if kind in ("invariant", "theorem") else ""


def non_inductive(proof: Proof, claim: str) -> list[str]:
    """The queries in which a claim failed, as lines; the earliest one per transition."""
    lines: dict[str, None] = {}
    unsure = [r for r in latest(proof.results).values() if r.verdict != "unsat" or r.second not in ("", "unsat")]
    for r in (*proof.failing, *unsure):
        if r.claim == claim:
            where = {INIT: "in an initial state", FOLLOWS: "from the invariants"}.get(r.label, f"after {r.label}")
            said = f"z3: {r.verdict}" + (f", cvc5: {r.second}" if r.second else "")
            lines[f"{claim} {where} ({said})"] = None
    return list(lines)


def why(proof: Proof, claim: str, line: Callable[[str], None]) -> None:
    """Show the dependencies of a proof: axioms, invariants (with their own proofs), and checks of each step."""
    system = proof.system
    answers = latest(proof.results)
    used = _leans_on(answers, claim)
    checks = _checks(system)
    line(f"{claim}: {'proved' if claim in proof.proved else 'not proved'}")
    order = [claim, *[n for n in used if n != claim]]
    axioms = sorted({c for r in answers.values() if r.claim in order for c in r.core if c.startswith("axiom/")})
    others = [n for n in order if n != claim]
    line(f"  depends on {len(others)} invariants and {len(axioms)} axioms: " + (", ".join(others) or "none"))
    for axiom in axioms:
        line(f"  axiom {axiom.partition('/')[2]}")
    for name in order:
        mine = [r for (_, c), r in answers.items() if c == name and r.verdict == "unsat"]
        if not mine:
            continue
        line(f"\n  {'theorem' if name in system.claims() else 'invariant'} {name}")
        for r in mine:
            leaning = sorted({claim_of(c) for c in r.core if claim_of(c)} - {name})
            here = checks.get(r.label, [])
            texts = [here[int(c[6:])] for c in sorted(r.core) if c.startswith("check/") and here]
            if not leaning and not texts:
                continue
            line(f"    {r.label}" + (f"  by {', '.join(leaning)}" if leaning else ""))
            for text in texts:
                line(f"        check  {text if len(text) <= 150 else text[:147] + '...'}")


def _leans_on(answers: dict[tuple[str, str], Result], claim: str) -> list[str]:
    order = {claim: None}
    todo = [claim]
    while todo:
        name = todo.pop(0)
        for (_, c), r in answers.items():
            if c != name:
                continue
            for other in (claim_of(n) for n in r.core):
                if other and other not in order:
                    order[other] = None
                    todo.append(other)
    return list(order)


def _checks(system: System) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for t in QueryMaker(system).transitions:
        out[t.label] = [show(p) for p in t.guard_parts]
    return out

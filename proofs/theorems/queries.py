"""The queries of a proof by induction, as text: assumptions, goals, and the names in a core.

One block per transition, with its guard and next state. One query per claim that the assignments could falsify. A
claim about a step is asked for every step, also for steps that write nothing it reads; one query without the
guard usually covers all of these (`unchanged`). Not here: running solvers (`induction.py`); `export` writes the same texts
to files.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from bulkhead.model import symbols
from bulkhead.model.ir import Claim, System, Transition
from bulkhead.model.logic import Formulas
from bulkhead.proofs.theorems.frame_rule import Frame

# Labels of queries without a transition; not possible as names in rules.
INIT = "(initial states)"
FOLLOWS = "(invariants)"
UNCHANGED, UNCHANGED_FAILED = "(nothing changes)", "(failing, nothing changes)"
PLACES = {
    INIT: "in every initial state",
    FOLLOWS: "implied by the invariants",
    UNCHANGED: "of a step that changes nothing it reads",
    UNCHANGED_FAILED: "of a failing step that changes nothing it reads",
}


@dataclass(frozen=True, slots=True)
class Query:
    """One query: is `goal` false in some state? `label` is the transition, or one of the labels above."""

    label: str
    claim: str
    goal: str  # SMT-LIB text of the negated claim, as an assertion named `goal`

    @property
    def key(self) -> tuple[str, str]:
        """The key of a query within one system."""
        return self.label, self.claim


@dataclass(frozen=True)
class Block:
    """Queries that share a context. `assumed` maps a name to the text of an assumption; `context` stands before them."""

    label: str
    context: str
    assumed: dict[str, str]
    queries: tuple[Query, ...]

    def assertions(self, names: Iterable[str] | None = None) -> str:
        """The assumptions (those in `names`, or all) as named assertions."""
        chosen = self.assumed if names is None else {n: self.assumed[n] for n in self.assumed if n in set(names)}
        return "".join(f"(assert (! {text} :named {name}))\n" for name, text in chosen.items())

    def claims_assumed(self) -> tuple[dict[str, str], list[str]]:
        """The assumed claims, each with the name of its assumption; and the names of all other assumptions."""
        claims = {bare: n for n in self.assumed for kind, _, bare in [n.partition("/")] if kind in ("invariant", "theorem")}
        return claims, [n for n in self.assumed if n not in set(claims.values())]

    def text(self, names: Iterable[str] | None = None) -> str:
        """Context and assumptions of a query."""
        return self.context + self.assertions(names)


def name_of(claim: Claim) -> str:
    """The name under which a claim is assumed."""
    return symbols.assumption(claim.kind, claim.name)


def goal(text: str) -> str:
    """The assertion that a claim is false."""
    return f"(assert (! (not {text}) :named goal))\n"


class QueryMaker:
    """Makes the blocks of one system."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.formulas = Formulas(system)
        self.frame = Frame(system)
        self.transitions: tuple[Transition, ...] = tuple(t for s in system.steps for t in s.outcomes())
        if len({t.label for t in self.transitions}) < len(self.transitions):
            raise AssertionError(f"two outcomes of system `{system.name}` have one label")  # answers are looked up by label
        self._assumed = {
            name_of(c): self.formulas.claim(c)
            for c in (*system.axioms, *system.invariants.values(), *system.theorems.values())
        }
        self._axioms = {name_of(c) for c in system.axioms}

    def assumptions(self, names: Iterable[str]) -> dict[str, str]:
        """The axioms and the named invariants or theorems, as texts."""
        keep = self._axioms | set(names)
        return {n: t for n, t in self._assumed.items() if n in keep}

    def initial(self, claims: Iterable[Claim]) -> Block:
        """Does every initial state satisfy the claims?"""
        assumed = self.assumptions(())
        assumed.update({name_of(c): self.formulas.claim(c) for c in self.system.inits})
        queries = tuple(Query(INIT, c.name, goal(self.formulas.claim(c))) for c in claims)
        return Block(INIT, "", assumed, queries)

    def follows(self, claims: Iterable[Claim], invariants: Iterable[str]) -> Block:
        """Do the invariants imply the claims?"""
        queries = tuple(Query(FOLLOWS, c.name, goal(self.formulas.claim(c))) for c in claims)
        return Block(FOLLOWS, "", self.assumptions(invariants), queries)

    def unchanged(self, claims: Iterable[Claim]) -> list[Block]:
        """Do claims about a step hold for every step that changes nothing they read? Only axioms are assumed."""
        return [
            Block(
                label,
                "",
                self.assumptions(()),
                tuple(Query(label, c.name, goal(self.formulas.transition_claim(c, frozenset(), failed))) for c in claims),
            )
            for label, failed in ((UNCHANGED, False), (UNCHANGED_FAILED, True))
        ]

    def step(
        self,
        transition: Transition,
        claims: Iterable[Claim],
        invariants: Iterable[str],
        two_state: Iterable[Claim] = (),
        harmless: Container[tuple[str, str]] = (),
    ) -> Block | None:
        """Does a transition keep the claims? None if there is no query.

        Claims about one state that it keeps by the frame rule (`frame_rule.py`) are skipped. A claim about a step
        is skipped only if the step changes nothing that it reads, and `harmless` holds the query of `unchanged` that
        covers all such steps.
        """
        f = self.formulas
        after = f.affected(transition)
        queries = []
        needed: frozenset[str] = frozenset()
        for claim in claims:
            touched = f.reads(claim) & after
            if touched and not self.frame.keeps(transition, claim):
                needed |= touched
                queries.append(Query(transition.label, claim.name, goal(f.claim(claim, after))))
        failed = bool(transition.code)
        for claim in two_state:
            touched = f.reads(claim) & after
            if touched or (UNCHANGED_FAILED if failed else UNCHANGED, claim.name) not in harmless:
                needed |= touched
                queries.append(Query(transition.label, claim.name, goal(f.transition_claim(claim, after, failed))))
        if not queries:
            return None
        # A definition read after the step may itself read others that the step changes.
        for name in tuple(needed):
            needed |= f.definition_reads.get(name, frozenset()) & after
        assumed = {symbols.assumption("check", str(k)): text for k, text in enumerate(f.guard_parts(transition))}
        assumed.update(self.assumptions(invariants))
        context = f.parameters(transition) + f.next_state(transition, needed)
        return Block(transition.label, context, assumed, tuple(queries))

"""The queries of a proof by induction, as text: assumptions, goals, and the names in a core.

One block per transition, with its guard and next state. One query per claim that the assignments could falsify. A
claim about a step is asked for every step, also for steps that write nothing it reads; one query without the
guard usually covers all of these (`unchanged`). Not here: running solvers (`induction.py`); `export` writes the same texts
to files.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from bulkhead.model import symbols
from bulkhead.model.ir import Claim, System, Transition
from bulkhead.model.logic import Formulas
from bulkhead.proofs.theorems.frame_rule import Frame
from bulkhead.proofs.theorems.neighbours import Neighbours

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
class Result:
    """The answers to one query. `second` is cvc5's verdict, "" if cvc5 was not asked."""

    label: str
    claim: str
    verdict: str
    core: tuple[str, ...]
    seconds: float
    second: str = ""
    second_seconds: float = 0.0
    again: bool = False  # refuted earlier in this run, for another step or system (`subsumption.py`)

    @property
    def key(self) -> tuple[str, str]:
        """The key of its query."""
        return self.label, self.claim


@dataclass(frozen=True)
class Assumptions:
    """Assumptions shared by many blocks: name -> text, in order. `claims` names those that are invariants or theorems.

    Blocks share these and do not copy them: a system of a thousand claims has thousands of blocks.
    """

    texts: dict[str, str]

    @cached_property
    def claims(self) -> dict[str, str]:
        """Invariants and theorems: bare name -> name."""
        parts = ((n, *n.partition("/")) for n in self.texts)
        return {bare: n for n, kind, _, bare in parts if kind in ("invariant", "theorem")}

    @cached_property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self.texts)

    @cached_property
    def others(self) -> frozenset[str]:
        """The names of the other assumptions: axioms, initial states."""
        return self.names - set(self.claims.values())

    @cached_property
    def order(self) -> dict[str, int]:
        """The position of each name."""
        return {n: k for k, n in enumerate(self.texts)}


@dataclass(frozen=True)
class Block:
    """Queries with a common context. Their assumptions are the `checks` of the step and the `shared` ones.

    `near` names the shared assumptions that are connected to the queries by common functions, transitively;
    None if these are most. The others are rarely needed, so they come last.
    """

    label: str
    context: str
    checks: dict[str, str]
    shared: Assumptions
    queries: tuple[Query, ...]
    near: frozenset[str] | None = None

    @property
    def nearby(self) -> frozenset[str]:
        """The names of the shared assumptions that are near."""
        return self.shared.names if self.near is None else self.shared.names & self.near

    @property
    def assumed(self) -> dict[str, str]:
        """All assumptions: name -> text."""
        return {**self.checks, **self.shared.texts}

    def assertions(self, names: Iterable[str] | None = None) -> str:
        """The assumptions (those in `names`, or all) as named assertions, in their order."""
        texts = self.shared.texts
        if names is None:
            return _assertions(self.assumed)
        wanted = frozenset(names)
        chosen = {n: t for n, t in self.checks.items() if n in wanted}
        chosen.update((n, texts[n]) for n in sorted((n for n in wanted if n in texts), key=self.shared.order.__getitem__))
        return _assertions(chosen)

    def text(self, names: Iterable[str] | None = None) -> str:
        """Context and assumptions of a query."""
        return self.context + self.assertions(names)


def _assertions(texts: Mapping[str, str]) -> str:
    return "".join(f"(assert (! {text} :named {name}))\n" for name, text in texts.items())


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
        claims = (*system.axioms, *system.invariants.values(), *system.theorems.values())
        self._neighbours = Neighbours({name_of(c): self.formulas.reads(c) for c in claims})
        self._chosen: dict[frozenset[str], Assumptions] = {}
        self._read_by: dict[str, list[str]] | None = None

    def assumptions(self, names: Iterable[str]) -> Assumptions:
        """The axioms and the named invariants or theorems, as texts."""
        keep = self._axioms | set(names)
        key = frozenset(keep)
        if key not in self._chosen:
            self._chosen[key] = Assumptions({n: t for n, t in self._assumed.items() if n in keep})
        return self._chosen[key]

    def _readers(self, names: Iterable[str]) -> set[str]:
        """The invariants and theorems that read one of these state functions or definitions."""
        if self._read_by is None:
            self._read_by = {}
            for claim in (*self.system.invariants.values(), *self.system.theorems.values()):
                for name in self.formulas.reads(claim):
                    self._read_by.setdefault(name, []).append(claim.name)
        return {c for n in names for c in self._read_by.get(n, ())}

    def initial(self, claims: Iterable[Claim]) -> Block:
        """Does every initial state satisfy the claims?"""
        assumed = {**self.assumptions(()).texts, **{name_of(c): self.formulas.claim(c) for c in self.system.inits}}
        queries = tuple(Query(INIT, c.name, goal(self.formulas.claim(c))) for c in claims)
        return Block(INIT, "", {}, Assumptions(assumed), queries)

    def follows(self, claims: Iterable[Claim], invariants: Iterable[str]) -> Block:
        """Do the invariants imply the claims?"""
        queries = tuple(Query(FOLLOWS, c.name, goal(self.formulas.claim(c))) for c in claims)
        return Block(FOLLOWS, "", {}, self.assumptions(invariants), queries)

    def unchanged(self, claims: Iterable[Claim]) -> list[Block]:
        """Do claims about a step hold for every step that changes nothing they read? Only axioms are assumed."""
        return [
            Block(
                label,
                "",
                {},
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
        read: frozenset[str] = frozenset()
        may_touch = self._readers(after)
        for claim in claims:
            if claim.name not in may_touch:
                continue
            touched = f.reads(claim) & after
            if not self.frame.keeps(transition, claim):
                needed |= touched
                read |= f.reads(claim)
                queries.append(Query(transition.label, claim.name, goal(f.claim(claim, after))))
        failed = bool(transition.code)
        for claim in two_state:
            touched = f.reads(claim) & after
            if touched or (UNCHANGED_FAILED if failed else UNCHANGED, claim.name) not in harmless:
                needed |= touched
                read |= f.reads(claim)
                queries.append(Query(transition.label, claim.name, goal(f.transition_claim(claim, after, failed))))
        if not queries:
            return None
        # A definition read after the step may itself read others that the step changes.
        for name in tuple(needed):
            needed |= f.definition_reads.get(name, frozenset()) & after
        checks = {symbols.assumption("check", str(k)): text for k, text in enumerate(f.guard_parts(transition))}
        context = f.parameters(transition) + f.next_state(transition, needed)
        near = self._neighbours.of(read | f.reads_of(transition.guard) | f.read_in(transition.updates))
        return Block(transition.label, context, checks, self.assumptions(invariants), tuple(queries), near)

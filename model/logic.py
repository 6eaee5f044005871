"""Translates the checked form to formulas: SMT-LIB 2 text for Z3, cvc5 and people.

State functions become uninterpreted functions (flat, one argument per index), definitions become `define-fun`, and the
state after a step is a second set of `define-fun`s (`entry.kind_next`) for the assigned functions only: a claim after
the step is its own text with those names substituted, so there are no frame axioms and no new quantifiers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bulkhead.model import symbols
from bulkhead.model.ir import (
    BOOL,
    CALL,
    POINT,
    App,
    Claim,
    Definition,
    Func,
    Lit,
    Op,
    Quant,
    System,
    Term,
    Transition,
    Update,
    Use,
    Var,
)

AFTER = "'"  # marks names read after the step, until the assigned functions are known
_SYMBOL = re.compile(r"[^\s()]+")
_WORD = re.compile(r"[()\s]+|[^()\s]+")
Renaming = frozenset[str]  # names of functions and definitions that are read after the step


@dataclass(frozen=True)
class Prelude:
    """The declarations of a system by symbol, in order; `closure` gives the dependencies of each symbol."""

    lines: dict[str, str]
    closure: dict[str, frozenset[str]]

    @property
    def text(self) -> str:
        """All of them."""
        return "\n".join(self.lines.values()) + "\n"

    def behind(self, text: str) -> frozenset[str]:
        """The names of the declarations that a text depends on, directly or indirectly."""
        found = set(_SYMBOL.findall(text))
        found |= {symbols.before(s) for s in found}
        return frozenset().union(*(self.closure[s] for s in found if s in self.closure))

    def in_order(self, names: Iterable[str]) -> str:
        """The declarations with these names."""
        return "".join(f"{self.lines[name]}\n" for name in sorted(names, key=self._order.__getitem__))

    @cached_property
    def _order(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.lines)}


@dataclass
class Formulas:
    """The formulas of one system. Texts are cached: each claim is translated once per set of names read after a step."""

    system: System
    _texts: dict[tuple[str, Renaming], str] = field(default_factory=dict)
    _words: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # of a claim or definition

    # Terms.

    def term(self, term: Term, env: Mapping[str, str] | None = None) -> str:
        """The term as text, read in the state before a step; `env` gives texts for variables.

        Names that a two-state claim reads after the step are marked; `transition_claim` replaces the marks.
        """
        if isinstance(term, App | Use):
            head = symbols.function(term.func if isinstance(term, App) else term.name)
            if term.next:
                head += AFTER
            return f"({head} {' '.join([self.term(a, env) for a in term.args])})" if term.args else head
        if isinstance(term, Var):
            return symbols.variable(term.name) if env is None or term.name not in env else env[term.name]
        if isinstance(term, Lit):
            return symbols.literal(term.name, term.sort)
        if isinstance(term, Op):
            return f"({term.op} {' '.join([self.term(a, env) for a in term.args])})"
        inner = env
        if env is not None and any(v.name in env for v in term.vars):
            inner = {k: t for k, t in env.items() if k not in {v.name for v in term.vars}}
        bound = self.binders(term.vars)
        return f"({term.kind} ({bound}) {self.term(term.body, inner)})"

    def binders(self, variables: Iterable[Var]) -> str:
        """Variables with their sorts, for a quantifier or a definition."""
        return " ".join([f"({symbols.variable(v.name)} {symbols.sort(v.sort)})" for v in variables])

    def claim(self, claim: Claim, after: Renaming = frozenset()) -> str:
        """The text of a claim, read in the state before (or, for the names in `after`, after) a step."""
        relevant = after & self.reads(claim)
        key = (claim.name, relevant)
        if key not in self._texts:
            self._texts[key] = self._renamed((claim.kind, claim.name), claim.body, _later(relevant))
        return self._texts[key]

    def transition_claim(self, claim: Claim, after: Renaming, failed: bool) -> str:
        """The text of a two-state claim over a step that assigns the names in `after`."""
        now = {name: symbols.function(name) for name in self.reads(claim)}
        meaning = {symbol + AFTER: symbols.after(symbol) if name in after else symbol for name, symbol in now.items()}
        meaning[symbols.variable("failed")] = "true" if failed else "false"
        return self._renamed((claim.kind, claim.name), claim.body, meaning)

    def _renamed(self, name: tuple[str, str], term: Term, meaning: Mapping[str, str]) -> str:
        """The text of a term with other symbols substituted. This is sound because a name has one meaning everywhere."""
        if name not in self._words:
            self._words[name] = _WORD.findall(self.term(term))
        return "".join([meaning.get(word, word) for word in self._words[name]])

    # Reads and writes.

    @cached_property
    def definition_reads(self) -> dict[str, frozenset[str]]:
        """State functions and definitions that each definition reads, directly or indirectly, with itself."""
        reads: dict[str, frozenset[str]] = {}
        for definition in self.system.defs.values():  # a definition comes after the ones it uses
            reads[definition.name] = self._reads(definition.body, reads) | {definition.name}
        return reads

    def _reads(self, term: Term, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
        found: set[str] = set()
        todo = [term]
        while todo:
            t = todo.pop()
            if isinstance(t, App):
                found.add(t.func)
                todo.extend(t.args)
            elif isinstance(t, Use):
                found |= known[t.name]
                todo.extend(t.args)
            elif isinstance(t, Op):
                todo.extend(t.args)
            elif isinstance(t, Quant):
                todo.append(t.body)
        return frozenset(found)

    def reads_of(self, term: Term) -> frozenset[str]:
        """The state functions and definitions that a term reads."""
        return self._reads(term, self.definition_reads)

    def reads(self, claim: Claim) -> frozenset[str]:
        """The state functions and definitions that a claim reads."""
        if claim.name not in self._claim_reads:
            self._claim_reads[claim.name] = self.reads_of(claim.body)
        return self._claim_reads[claim.name]

    _claim_reads: dict[str, frozenset[str]] = field(default_factory=dict)

    def read_in(self, updates: Iterable[Update]) -> frozenset[str]:
        """The state functions that assignments write, and all that they read."""
        found: frozenset[str] = frozenset()
        for u in updates:
            found |= {u.func} | self.reads_of(u.cond) | self.reads_of(u.value)
            found |= frozenset().union(*(self.reads_of(a) for a in u.args))
        return found

    def affected(self, transition: Transition) -> Renaming:
        """The functions a transition assigns and the definitions that read one of them."""
        written = {u.func for u in transition.updates}
        return frozenset(written) | {n for n, reads in self.definition_reads.items() if reads & written}

    # Declarations.

    @cached_property
    def declared(self) -> dict[str, str]:
        """The text that declares each sort, enum, constant, state function and definition of the state before a step."""
        system, sort, function = self.system, symbols.sort, symbols.function
        out = {sort(name): f"(declare-sort {sort(name)} 0)" for name in system.sorts}
        for name, members in system.enums.items():
            texts = " ".join(f"({symbols.literal(m, name)})" for m in members)
            out[sort(name)] = f"(declare-datatypes (({sort(name)} 0)) (({texts})))"
        for name, of in system.consts.items():
            out[symbols.literal(name, of)] = f"(declare-const {symbols.literal(name, of)} {sort(of)})"
        for f in system.funcs.values():
            out[function(f.name)] = _declared(f).strip()
        out.update({function(d.name): self.definition(d) for d in system.defs.values()})
        return out

    @cached_property
    def prelude(self) -> Prelude:
        """All declarations, in dependency order."""
        prelude = Prelude(self.declared, {})
        members = {symbols.sort(name): [symbols.literal(m, name) for m in of] for name, of in self.system.enums.items()}
        for symbol, line in self.declared.items():  # a line's dependencies come before it
            leans = prelude.behind(line) | {symbol}
            prelude.closure.update(dict.fromkeys((symbol, *members.get(symbol, ())), leans))
        return prelude

    def definition(self, d: Definition, after: Renaming = frozenset()) -> str:
        """A `define-fun`; with `after`, the definition as read in the state after the step."""
        symbol = symbols.function(d.name)
        body = self._renamed(("define", d.name), d.body, _later(after))
        head = symbols.after(symbol) if after else symbol
        return f"(define-fun {head} ({self.binders(d.params)}) {symbols.sort(d.sort)} {body})"

    # Steps.

    def parameters(self, transition: Transition) -> str:
        """Declares the parameters of a transition as constants, its choices as functions: a step is taken for any values."""
        out = [f"(declare-const {symbols.variable(p.name)} {symbols.sort(p.sort)})\n" for p in transition.params]
        return "".join(out + [_declared(choice) for choice in transition.choices])

    def guard_parts(self, transition: Transition) -> list[str]:
        """The guard of a transition, conjunct by conjunct."""
        return [self.term(p) for p in transition.guard_parts]

    def next_state(self, transition: Transition, needed: Renaming | None = None) -> str:
        """The state after a transition, as definitions over the state before it."""
        after = self.affected(transition)
        if needed is not None:
            after = after & needed
        by_func: dict[str, list[Update]] = {}
        for update in transition.updates:
            if update.func in after:
                by_func.setdefault(update.func, []).append(update)
        out = [self._assigned(name, updates) for name, updates in by_func.items()]
        out += [self.definition(d, after) for d in self.system.defs.values() if d.name in after]
        return "\n".join(out) + "\n"

    def _assigned(self, name: str, updates: list[Update]) -> str:
        func, symbol = self.system.funcs[name], symbols.function(name)
        slots = [symbols.slot(k) for k in range(len(func.args))]
        body = f"({symbol} {' '.join(slots)})" if slots else symbol
        for update in updates:  # the last one is outermost and wins
            cond, value = self.assignment(update, slots)
            body = value if cond == "true" else f"(ite {cond} {value} {body})"
        params = " ".join(f"({s} {symbols.sort(a)})" for s, a in zip(slots, func.args, strict=True))
        return f"(define-fun {symbols.after(symbol)} ({params}) {symbols.sort(func.sort)} {body})"

    def assignment(self, update: Update, slots: list[str]) -> tuple[str, str]:
        """The condition under which the update assigns the place `slots`, and the value."""
        bound = {v.name for v in update.binders}
        env: dict[str, str] = {}
        tests = []
        for slot, arg in zip(slots, update.args, strict=True):
            if isinstance(arg, Var) and arg.name in bound and arg.name not in env:
                env[arg.name] = slot
            else:
                tests.append((slot, arg))
        conds = [f"(= {slot} {self.term(arg, env)})" for slot, arg in tests]
        if update.cond != Lit("true", BOOL):
            conds.append(self.term(update.cond, env))
        loose = [v for v in update.binders if v.name not in env]
        cond = "true" if not conds else conds[0] if len(conds) == 1 else f"(and {' '.join(conds)})"
        if loose:
            cond = f"(exists ({self.binders(loose)}) {cond})"
        return cond, self.term(update.value, env)


def _declared(func: Func) -> str:
    """The declaration of a function."""
    args = " ".join(map(symbols.sort, func.args))
    return f"(declare-fun {symbols.function(func.name)} ({args}) {symbols.sort(func.sort)})\n"


def _later(names: Iterable[str]) -> dict[str, str]:
    """The symbols of functions and definitions, each with its name after the step."""
    return {symbol: symbols.after(symbol) for symbol in map(symbols.function, names)}


__all__ = ["CALL", "POINT", "Formulas", "Prelude", "Renaming"]

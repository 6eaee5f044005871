"""Bounded model checking of a system in a small world by Z3: quantifiers expanded, one set of definitions per step.

One `define-fun` per state function and step holds the assignments of the steps so far,
and Z3 picks operations and arguments. `attack.py` uses it to find violations, `cti.py` to find single
steps, `vacuity.py` to find states. A model of Z3 counts only after the executable model has replayed it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bulkhead.model import symbols
from bulkhead.model.choices import in_world
from bulkhead.model.ir import App, Claim, Lit, Op, Quant, System, Term, Transition, Update, Use, Var
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import World
from bulkhead.proofs.theorems.solvers import UNLIMITED, SolverError, Spent, bounded


@dataclass(frozen=True)
class _Slot:
    """An argument constant of one step, shared by all transitions."""

    name: str
    sort: str


class GroundWriter:
    """Terms as ground SMT-LIB text over the elements of a scope; `@n` marks the state after n steps."""

    def __init__(self, system: System, sizes: dict[str, int]) -> None:
        self.system = system
        self.sizes = sizes

    def values(self, sort: str) -> list[str]:
        if sort == "bool":
            return ["false", "true"]
        if sort in self.system.enums:
            return [symbols.literal(m, sort) for m in self.system.enums[sort]]
        return [f"{symbols.sort(sort)}!{k}" for k in range(self.sizes[sort])]

    def term(self, term: Term, n: int, env: dict[str, str]) -> str:
        match term:
            case Var(name):
                return env[name]
            case Lit(name, sort):
                return symbols.literal(name, sort) if term.number is None else self.values(sort)[term.number]
            case App(func, args) | Use(func, args):
                head = symbols.at(symbols.function(func), n + 1 if term.next else n)
                return f"({head} {' '.join([self.term(a, n, env) for a in args])})" if args else head
            case Op("ite", (a, b, c)):
                return f"(ite {self.term(a, n, env)} {self.term(b, n, env)} {self.term(c, n, env)})"
            case Op(op, args):
                return f"({op} {' '.join([self.term(a, n, env) for a in args])})"
            case Quant(kind, vars_, body):
                parts = [self.term(body, n, e) for e in self._bindings(vars_, env)]
                if len(parts) == 1:
                    return parts[0]
                return f"({'and' if kind == 'forall' else 'or'} {' '.join(parts)})"
        raise AssertionError(term)

    def parts(self, term: Term) -> int:
        """The number of parts of a term with its quantifiers expanded."""
        match term:
            case Quant(_, vars_, body):
                return math.prod(len(self.values(v.sort)) for v in vars_) * self.parts(body)
            case App(_, args) | Use(_, args) | Op(_, args):
                return 1 + sum(map(self.parts, args))
        return 1

    def _bindings(self, vars_: tuple[Var, ...], env: dict[str, str]) -> list[dict[str, str]]:
        out = [env]
        for v in vars_:
            out = [{**e, v.name: value} for e in out for value in self.values(v.sort)]
        return out

    def declarations(self) -> str:
        out = [
            f"(declare-datatypes (({symbols.sort(s)} 0)) (({' '.join(f'({e})' for e in self.values(s))})))"
            for s in (*self.system.sorts, *self.system.enums)
        ]
        out += [f"(declare-const {symbols.literal(c, s)} {symbols.sort(s)})" for c, s in self.system.consts.items()]
        for f in self.system.funcs.values():
            out.append(
                f"(declare-fun {symbols.at(symbols.function(f.name), 0)} ({' '.join(map(symbols.sort, f.args))}) "
                f"{symbols.sort(f.sort)})"
            )
        return "\n".join(out) + "\n" + self.definitions(0)

    def definitions(self, n: int) -> str:
        out = []
        for d in self.system.defs.values():
            params = " ".join(f"({symbols.variable(p.name)} {symbols.sort(p.sort)})" for p in d.params)
            body = self.term(d.body, n, {p.name: symbols.variable(p.name) for p in d.params})
            head = symbols.at(symbols.function(d.name), n)
            out.append(f"(define-fun {head} ({params}) {symbols.sort(d.sort)} {body})\n")
        return "".join(out)

    def slots(self, transitions: list[Transition], n: int) -> tuple[list[_Slot], list[dict[str, str]]]:
        """The argument constants of step n, and for each transition the constants of its parameters."""
        made: dict[str, _Slot] = {}
        envs = []
        for t in transitions:
            used: dict[str, int] = {}
            env = {}
            for p in t.params:
                k = used.get(p.sort, 0)
                used[p.sort] = k + 1
                name = f"arg@{n}@{k}@{p.sort}"
                made.setdefault(name, _Slot(name, p.sort))
                env[p.name] = name
            envs.append(env)
        return list(made.values()), envs

    def step(self, transitions: list[Transition], n: int) -> str:
        """Declarations and assertions for the step from state n to state n + 1."""
        slots, envs = self.slots(transitions, n)
        out = [f"(declare-const op!{n} Int)\n(assert (and (<= 0 op!{n}) (< op!{n} {len(transitions)})))\n"]
        out += [f"(declare-const {s.name} {symbols.sort(s.sort)})\n" for s in slots]
        by_func: dict[str, list[tuple[int, Update, dict[str, str]]]] = {}
        for k, (t, env) in enumerate(zip(transitions, envs, strict=True)):
            out.append(f"(assert (=> (= op!{n} {k}) {self.term(t.guard, n, env)}))\n")
            for u in t.updates:
                by_func.setdefault(u.func, []).append((k, u, env))
        for f in self.system.funcs.values():
            places = [symbols.slot(i) for i in range(len(f.args))]
            now, then = (symbols.at(symbols.function(f.name), k) for k in (n, n + 1))
            body = f"({now} {' '.join(places)})" if places else now
            for k, u, env in by_func.get(f.name, ()):
                cond, value = self._assignment(u, places, n, env)
                body = f"(ite (and (= op!{n} {k}) {cond}) {value} {body})"
            params = " ".join(f"({p} {symbols.sort(a)})" for p, a in zip(places, f.args, strict=True))
            out.append(f"(define-fun {then} ({params}) {symbols.sort(f.sort)} {body})\n")
        return "".join(out) + self.definitions(n + 1)

    def _assignment(self, u: Update, places: list[str], n: int, env: dict[str, str]) -> tuple[str, str]:
        bound = {v.name for v in u.binders}
        inner = dict(env)
        tests = []
        for p, arg in zip(places, u.args, strict=True):
            if isinstance(arg, Var) and arg.name in bound:
                inner[arg.name] = p
                bound.discard(arg.name)
            else:
                tests.append((p, arg))
        loose = tuple(v for v in u.binders if v.name in bound)  # a binder in no index: some element satisfies the condition
        ways = []
        for env_ in self._bindings(loose, inner):
            conds = [f"(= {p} {self.term(a, n, env_)})" for p, a in tests] + [self.term(u.cond, n, env_)]
            ways.append(f"(and {' '.join(conds)})")
        return ways[0] if len(ways) == 1 else f"(or {' '.join(ways)})", self.term(u.value, n, inner)


LONGEST = 300_000  # parts of a claim
EFFORT = 400_000_000  # Z3's resource limit for one query without a time limit, a minute or two; it is deterministic
TIGHTENINGS = 400  # queries to empty a state; a count and not a time, so that runs are deterministic


class Search:
    """One solver session over one scope."""

    def __init__(
        self,
        system: System,
        claim: Claim,
        sizes: dict[str, int],
        limit: float,
        start: list[Claim] | None = None,
        spent: Spent | None = None,
    ) -> None:
        """`limit` is the time for one query, in seconds; if that is infinite, the solver's effort is bounded instead.

        `start` describes the first state; initial states and axioms unless given. `spent` adds up the solver's time.
        """
        import z3  # slow to import, and not needed without a solver

        for key, value in {"smt.mbqi": True, "smt.auto_config": True, "smt.qi.eager_threshold": 10.0}.items():
            z3.set_param(key, value)
        self._z3 = z3
        self._context = z3.Context()
        self._spent = spent or Spent()
        self.system, self.claim, self.sizes = system, claim, sizes
        self.writer = GroundWriter(system, sizes)
        two_state = claim.kind == "transition"  # such a claim also covers steps that fail and change nothing
        self.transitions = [t for s in system.steps for t in (s.outcomes() if two_state else s.transitions())]
        self.depth = 0
        self.taken: list[list[Transition]] = []  # the transitions to choose from in each step so far
        self._limited = bounded(limit) if math.isfinite(limit) else bounded(effort=EFFORT)
        self._limit = limit
        w = self.writer
        inits = [*system.inits, *system.axioms] if start is None else start
        self._eval(w.declarations() + "".join(f"(assert {w.term(c.body, 0, {})})\n" for c in inits))

    def _eval(self, text: str) -> str:
        with self._spent.counted():
            try:
                out = str(self._z3.Z3_eval_smtlib2_string(self._context.ref(), text))
            except self._z3.Z3Exception as error:
                raise SolverError(f"z3: {error}") from None
        if "(error" in out:
            raise SolverError(f"z3: {out.strip()[:500]}")
        return out

    def deepen(self) -> None:
        """Add one step, by any of the current transitions."""
        self.transitions = [in_world(self.system, World(self.sizes, {}), t) for t in self.transitions]
        self.taken.append(self.transitions)
        self._eval(self.writer.step(self.transitions, self.depth))
        self.depth += 1

    def check(self, text: str = "", keep: bool = False) -> str:
        """Are the assertions so far satisfiable together with `text`? With `keep` the model stays available for `decode`."""
        self._eval("(push)\n" + text)
        verdict = self._eval(self._limited + "(check-sat)").strip()
        self._eval(UNLIMITED)
        if not (keep and verdict == "sat"):
            self._eval("(pop)")
        return verdict if verdict in ("sat", "unsat") else "unknown"

    def answer(self, claim: Claim) -> str:
        """Can the claim be false after exactly `depth` steps? With `sat` the model stays available for `decode`.

        `unknown` if the claim is too long with its quantifiers expanded.
        """
        if self.writer.parts(claim.body) > LONGEST:
            return "unknown"
        return self.check(f"(assert (not {self._claimed(claim)}))\n", keep=True)

    def violated(self) -> bool:
        """Can the claim be false now? Raises `SolverError` on `unknown`."""
        verdict = self.answer(self.claim)
        if verdict == "unknown":
            raise SolverError(
                f"attack search on `{self.claim.name}`: Z3 answers unknown at depth {self.depth}; raise the time limit."
            )
        return verdict == "sat"

    def effort(self, limit: int) -> None:
        """Bound the effort for each query from here on, by Z3's resource limit and not by time."""
        self._limited = bounded(self._limit, limit)

    def forget(self) -> None:
        """Discard the model that `answer` kept, to continue."""
        self._eval("(pop)")

    def _claimed(self, claim: Claim) -> str:
        """The claim after `depth` steps; a two-state claim is about the last of them."""
        if claim.kind != "transition":
            return self.writer.term(claim.body, self.depth, {})
        if not self.depth:
            return "true"
        last = self.depth - 1
        failures = " ".join(f"(= op!{last} {k})" for k, t in enumerate(self.taken[last]) if t.code)
        return self.writer.term(claim.body, last, {"failed": f"(or false {failures})"})

    def values(self, terms: list[str]) -> list[str]:
        if not terms:
            return []
        out = []
        for start in range(0, len(terms), 200):
            chunk = terms[start : start + 200]
            text = self._eval(f"(get-value ({' '.join(chunk)}))")
            text = text.strip()[1:-1]
            found = re.findall(r"\((?:\([^()]*\)|[^\s()]+)\s+([^\s()]+)\)", text)
            if len(found) != len(chunk):
                raise SolverError(f"z3: cannot read its model: {text[:200]}")
            out += found
        return out

    def tighten(self, relevant: Iterable[str] = ()) -> None:
        """Empty the first state as far as the claim's violation allows, and keep such a model.

        Places get the first value of their sort, function by function and then one by one, `relevant` functions last.
        """
        last = set(relevant)
        left = TIGHTENINGS
        stubborn: list[tuple[str, list[str]]] = []
        for func in sorted(self.system.funcs.values(), key=lambda f: f.name in last):
            places = [""]
            for arg in func.args:
                places = [f"{p} {v}" for p in places for v in self.writer.values(arg)]
            name = symbols.at(symbols.function(func.name), 0)
            terms = [f"({name}{p})" if p else name for p in places]
            first = self.writer.values(func.sort)[0]
            left -= 1
            if self.check("".join(f"(assert (= {t} {first}))\n" for t in terms), keep=True) != "sat":
                stubborn.append((first, terms))
        for first, terms in stubborn:
            self._require()
            for term, value in zip(terms, self.values(terms), strict=True):
                if value == first or left > 0:
                    left -= value != first
                    self.check(f"(assert (= {term} {first}))\n", keep=True)
        self._require()

    def _require(self) -> None:
        """Recompute a model: the kept assertions were satisfiable before."""
        if self.check(keep=True) != "sat":
            raise SolverError(f"z3 no longer finds what breaks `{self.claim.name}`; raise the time limit.")

    def decode(self, faults: tuple[str, ...]) -> Trace:
        system, w = self.system, self.writer
        names = [symbols.literal(c, s) for c, s in system.consts.items()]
        consts = dict(zip(system.consts, self.values(names), strict=True))
        world = World(dict(self.sizes), {c: w.values(s).index(consts[c]) for c, s in system.consts.items()})
        initial = []
        for f in system.funcs.values():
            places = [""]
            for a in f.args:
                places = [f"{p} {v}" for p in places for v in w.values(a)]
            name = symbols.at(symbols.function(f.name), 0)
            terms = [f"({name}{p})" if p else name for p in places]
            kinds = w.values(f.sort)
            initial.append([kinds.index(v) for v in self.values(terms)])
        events = []
        for n in range(self.depth):
            slots, envs = w.slots(self.taken[n], n)
            got = dict(zip([s.name for s in slots], self.values([s.name for s in slots]), strict=True))
            k = int(self.values([f"op!{n}"])[0])
            t = self.taken[n][k]
            args = {p.name: w.values(p.sort).index(got[envs[k][p.name]]) for p in t.params}
            events.append(Event(t.label, args))
        return Trace(system.name, faults, self.claim.name, world, initial, tuple(events))

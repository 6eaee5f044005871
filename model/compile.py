"""The compiler of the executable model: translates terms and assignments to Python code over the tables of a finite world.

There are two modes. In fast mode, for code that runs millions of times, quantifiers are expanded over the world,
definitions are inlined, and tables are local variables (`T0`, `T1`, ...). In the other mode, for rarely run code, loops
stay loops and definitions are functions, which compiles much faster. Both modes share one translation of terms;
`tests/test_executable.py` compares them with an interpreter of terms.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from bulkhead.model.ir import BOOL, App, Lit, Op, Quant, System, Term, Update, Use, Var, free_variables, subterms
from bulkhead.model.narrow import after
from bulkhead.model.world import World, size_of

UNROLL = 128  # instances of one quantifier or assignment that are expanded; a loop if there are more

_TABLE = re.compile(r"\bT([0-9]+)\b")

Env = dict[str, str]  # variable -> its code
Space = dict[str, Any]  # the globals of compiled code


class Coder:
    """Terms as Python expressions over the tables of a state; `fast` selects the mode.

    Code that is not fast expects the tables as `S` (`N` after the step), and definitions as functions `d_NAME`.
    """

    def __init__(self, system: System, world: World, fast: bool = True) -> None:
        self.system = system
        self.world = world
        self.fast = fast
        self.unroll = UNROLL if fast else 1
        self.number = {name: k for k, name in enumerate(system.funcs)}
        self.members = {(sort, m): i for sort, ms in system.enums.items() for i, m in enumerate(ms)}
        self.fresh = itertools.count()

    def size(self, var: Var) -> int:
        return size_of(self.system, self.world, var.sort)

    def place(self, func: str, args: tuple[Term, ...], env: Env, after: bool = False) -> tuple[str, str]:
        """The table and the flat index of an application."""
        parts, known, stride = [], 0, 1
        for arg, sort in reversed(list(zip(args, self.system.funcs[func].args, strict=True))):
            code = self.value(arg, env)
            if code.isdigit():
                known += int(code) * stride
            else:
                parts.append(code if stride == 1 else f"{code}*{stride}")
            stride *= size_of(self.system, self.world, sort)
        if known or not parts:
            parts.append(str(known))
        number = self.number[func]
        if self.fast:
            return f"{'N' if after else 'T'}{number}", "+".join(parts)
        return f"{'N' if after else 'S'}[{number}]", "+".join(parts)

    def value(self, term: Term, env: Env) -> str:
        """The term as an integer."""
        match term:
            case Var(name):
                return env[name] if name in env else code_name(name)
            case Lit(name, sort):
                if term.number is not None:
                    return name
                if name in self.system.consts:  # of whatever sort
                    return str(self.world.consts[name])
                return str(self.members[sort, name]) if sort != BOOL else "1" if name == "true" else "0"
            case App(func, args):
                table, index = self.place(func, args, env, term.next)
                return f"{table}[{index}]"
            case Use(_, args) if term.sort != BOOL:
                return self.value(*self._opened(term, args, env)) if self.fast else self._called(term, args, env)
            case Op("ite", (cond, then, other)):
                test = self.truth(cond, env)
                if test in ("True", "False"):
                    return self.value(then if test == "True" else other, env)
                return f"({self.value(then, env)} if {test} else {self.value(other, env)})"
        test = self.truth(term, env)
        return {"True": "1", "False": "0"}.get(test, f"(1 if {test} else 0)")

    def _opened(self, term: Use, args: tuple[Term, ...], env: Env) -> tuple[Term, Env]:
        """The body of a definition, with the arguments' code for its parameters."""
        made = self.system.defs[term.name]
        body = after(made.body) if term.next else made.body
        return body, {p.name: self.value(a, env) for p, a in zip(made.params, args, strict=True)}

    def _called(self, term: Use, args: tuple[Term, ...], env: Env) -> str:
        """A call of the definition's function."""
        return f"d_{term.name}({', '.join(['N' if term.next else 'S', *(self.value(a, env) for a in args)])})"

    def definitions(self) -> Space:
        """The definitions as functions, for code that calls them."""
        space: Space = {}
        for d in self.system.defs.values():
            body = self.truth(d.body, {}) if d.sort == BOOL else self.value(d.body, {})
            compiled(f"d_{d.name}", ", ".join(["S", *(code_name(p.name) for p in d.params)]), [f"return {body}"], space)
        return space

    def truth(self, term: Term, env: Env) -> str:
        """The term as a condition: `True`, `False`, or an expression in parentheses where it needs them."""
        match term:
            case Use(_, args):
                return self.truth(*self._opened(term, args, env)) if self.fast else self._called(term, args, env)
            case Op("not", (inner,)):
                return _negated(self.truth(inner, env))
            case Op("=>", (left, right)):
                return joined("or", [_negated(self.truth(left, env)), self.truth(right, env)])
            case Op("=", (left, right)):
                a, b = self.value(left, env), self.value(right, env)
                if a == b:
                    return "True"
                return "False" if a.isdigit() and b.isdigit() else f"({a} == {b})"
            case Op(("and" | "or") as op, args):
                return joined(op, (self.truth(a, env) for a in args))
            case Quant(kind, vars_, body):
                return self._quantified(kind, vars_, body, env)
        code = self.value(term, env)
        return {"1": "True", "0": "False"}.get(code, code)

    def _quantified(self, kind: str, vars_: tuple[Var, ...], body: Term, env: Env) -> str:
        word = "and" if kind == "forall" else "or"
        # Evaluate a part without some of the variables once, not again for each value of the others.
        guarded = isinstance(body, Op) and body.op == ("=>" if kind == "forall" else "and")
        if guarded and isinstance(body, Op) and len(vars_) > 1:
            first, rest = body.args[0], body.args[1:]
            free = free_variables(first)
            outer = tuple(v for v in vars_ if v.name in free)
            inner = tuple(v for v in vars_ if v.name not in free)
            if outer and inner:
                tail = rest[0] if len(rest) == 1 else Op(body.op, rest)
                return self._quantified(kind, outer, Op(body.op, (first, Quant(kind, inner, tail))), env)
        count = 1
        for v in vars_:
            count *= self.size(v)
        if count <= self.unroll:
            ranges = [range(self.size(v)) for v in vars_]
            return joined(
                word,
                (
                    self.truth(body, env | {v.name: str(i) for v, i in zip(vars_, choice, strict=True)})
                    for choice in itertools.product(*ranges)
                ),
            )
        inside, loops = dict(env), []
        for v in vars_:
            name = f"q{next(self.fresh)}"  # a definition's arguments may contain variables of the context
            inside[v.name] = name
            loops.append(f"for {name} in range({self.size(v)})")
        return f"{'all' if word == 'and' else 'any'}({self.truth(body, inside)} {' '.join(loops)})"

    def with_tables(self, lines: list[str]) -> list[str]:
        """Lines of fast code, behind one that gives the tables they use their local names."""
        used = sorted({int(k) for line in lines for k in _TABLE.findall(line)})
        names = "".join(f"T{k}, " for k in used)
        return [f"{names}= {''.join(f'S[{k}], ' for k in used)}", *lines] if used else lines

    # Statements.

    def effect(self, updates: tuple[Update, ...], logged: bool = False) -> list[str]:
        """Simultaneous assignments, which all read the state before; the last one to a place wins. `logged`: of each, the
        number of the table, the place and the value before are appended to `log`."""
        if self._ordered(updates):
            form = "wi = {i}; log.append(({k}, wi, {t}[wi])); {t}[wi] = {v}" if logged else "{t}[{i}] = {v}"
            return [line for u in updates for line in self._assign(u, form)]
        lines = ["W = []"]
        for u in updates:
            lines += self._assign(u, "W.append(({t}, {i}, {v}, {k}))" if logged else "W.append(({t}, {i}, {v}))")
        if logged:
            return [*lines, "for wt, wi, wv, wk in W:", "    log.append((wk, wi, wt[wi]))", "    wt[wi] = wv"]
        return [*lines, "for wt, wi, wv in W:", "    wt[wi] = wv"]

    def _ordered(self, updates: tuple[Update, ...]) -> bool:
        """May the assignments run in sequence, because none reads a place that an earlier one writes?"""
        written: set[str] = set()
        for u in updates:
            if u.binders:
                written.add(u.func)  # its own later rounds must not read its earlier ones
            if any(f in written for t in (u.cond, u.value, *u.args) for f in self._reads(t)):
                return False
            written.add(u.func)
        return True

    def _reads(self, term: Term) -> Iterator[str]:
        for t in subterms(term):
            if isinstance(t, App):
                yield t.func
            elif isinstance(t, Use):
                yield from self._reads(self.system.defs[t.name].body)

    def _assign(self, u: Update, form: str) -> list[str]:
        count = 1
        for v in u.binders:
            count *= self.size(v)
        lines: list[str] = []
        if count <= self.unroll:
            for choice in itertools.product(*(range(self.size(v)) for v in u.binders)):
                given = {v.name: str(i) for v, i in zip(u.binders, choice, strict=True)}
                lines += self._guarded(u, given, form, "")
            return lines
        pad = ""
        env: Env = {}
        for v in u.binders:  # a fresh name, as a later pick may have the variable's name
            env[v.name] = f"q{next(self.fresh)}"
            lines.append(f"{pad}for {env[v.name]} in range({self.size(v)}):")
            pad += "    "
        body = self._guarded(u, env, form, pad)
        return lines + body if body else []

    def _guarded(self, u: Update, env: Env, form: str, pad: str) -> list[str]:
        test = self.truth(u.cond, env)
        if test == "False":
            return []
        table, index = self.place(u.func, u.args, env)
        line = form.format(t=table, i=index, v=self.value(u.value, env), k=self.number[u.func])
        return [pad + line] if test == "True" else [f"{pad}if {test}:", f"{pad}    {line}"]


def joined(word: str, parts: Any) -> str:
    """The conjunction or disjunction of conditions, simplified if one of them decides it."""
    neutral, decisive = ("True", "False") if word == "and" else ("False", "True")
    kept: dict[str, None] = {}
    for part in parts:
        if part == decisive:
            return decisive
        if part != neutral:
            kept[part] = None
    if len(kept) > 1:
        return "(" + f" {word} ".join(kept) + ")"
    return next(iter(kept), neutral)


def _negated(code: str) -> str:
    return {"True": "False", "False": "True"}.get(code, f"(not {code})")


def code_name(variable: str) -> str:
    """The name of a parameter or variable in compiled code; one that no rule can have is told apart from all others."""
    return "v_" + re.sub(r"\W", "\N{MIDDLE DOT}", variable)


def indent(lines: list[str], depth: int = 1) -> list[str]:
    return ["    " * depth + line for line in lines]


def compiled(name: str, params: str, lines: list[str], space: Space | None = None) -> Callable[..., Any]:
    """Compile a function of these lines, with the names in `space`, and add it to `space`."""
    known: Space = {} if space is None else space
    exec("\n".join([f"def {name}({params}):", *indent(lines)]), known)
    made: Callable[..., Any] = known[name]
    return made


__all__ = ["Coder", "Env", "Space", "code_name", "compiled", "indent", "joined"]

"""Generates random systems over the whole language from a seed, well-formed by construction. Names are difficult on purpose.

A system is a list of parts of text, so that shrinking can remove some: `Draft`. The checker decides whether the rest is
well-formed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

NASTY = (
    "x0",
    "x1",
    "value",
    "goal",
    "i0",
    "a",
    "a_",
    "a_next",
    "next_a",
    "init",
    "error",
    "old",
    "old_live",
    "live",
    "seq",
    "re",
    "bv",
    "nil",
    "item",
    "x",
    "y",
    "t",
    "S",
    "N",
    "k",
    "o",
    "v_x",
    "follows",
    "check",
    "store",
    "Int",
    "Bool",
    "Array",
    "RegEx",
    "proved",
    "okay",
    "goal0",
    "assumed",
    "inv",
    "true_",
    "def",
    "lambda",
    "let",
    "select",
    "ite",
    "range",
    "all_",
    "len",
    "rnd",
    "given",
    "picks",
    "args",
    "implies_",
    "BitVec",
    "Set",
    "State",
    "class",
    "None",
    "self",
    "return_",
)
KINDS = ("internal", "request", "hypercall", "ioctl", "syscall", "guest")
CODES = ("error", "EINVAL", "EPERM", "okay", "x0", "init")
Scope = dict[str, object]  # a variable's sort, or the fields of a record
Procedures = dict[str, "Procedure"]


@dataclass(frozen=True)
class Procedure:
    """The signature of a procedure for `perform`: sorts of the arguments and of the result, locals, and steps."""

    params: tuple[str, ...]
    result: str | None
    locals: dict[str, object]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """An item: a fixed head, statements that may be removed, and perhaps a string before it."""

    head: str
    body: tuple[str, ...] = ()
    doc: str = ""

    def text(self) -> str:
        return "\n".join([*([f'"{self.doc}"'] if self.doc else []), self.head, *(f"    {b}" for b in self.body)])


@dataclass(frozen=True)
class Draft:
    """A whole rules file in parts. The system expects some claims to be refuted, and all others to be proved.

    `more` are components without items of their own, and lines of the system; the system may be the first in the file.
    """

    parts: tuple[Part, ...]
    templates: tuple[str, ...] = ()  # components with parameters, as text
    uses: tuple[str, ...] = ()  # their uses
    more: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    falling: int = 0  # claims that are expected to be refuted, the last ones
    first: bool = False

    def claims(self) -> list[str]:
        return [p.head.split()[1] for p in self.parts if p.head.startswith(("theorem ", "transition "))]

    def text(self) -> str:
        claims = self.claims()
        kept = claims[: max(len(claims) - self.falling, 0)]
        expected = [("proved", kept), ("refuted", claims[len(kept) :])]
        lines = [
            *self.scopes[:1],
            *(f"expect {word} {', '.join(names)}" for word, names in expected if names),
            *self.scopes[1:],
        ]
        templates = "".join(f"{text}\n\n" for text in self.templates)
        uses = f"uses {', '.join(self.uses)}\n" if self.uses else ""
        named = [text.split()[1] for text in self.more]
        system = f'system made "made at random"\n    uses {", ".join(["gen", *named])}\n' + "".join(
            f"    {line}\n" for line in lines
        )
        components = (
            f'{templates}component gen "made at random"\n{uses}\n'
            + "\n".join(p.text() for p in self.parts)
            + "".join(f"\n\n{text}" for text in self.more)
        )
        return f"{system}\n{components}\n" if self.first else f"{components}\n\n{system}"


@dataclass
class Maker:
    """Makes one draft. `states` maps a name to its index sorts and its fields."""

    rng: random.Random
    sorts: list[str] = field(default_factory=list)
    enums: dict[str, list[str]] = field(default_factory=dict)
    consts: dict[str, str] = field(default_factory=dict)
    states: dict[str, tuple[list[str], list[tuple[str, str]]]] = field(default_factory=dict)
    defines: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)  # `op.local` and its sort
    points: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)  # states that nothing writes
    assigning: dict[str, tuple[str, ...]] = field(default_factory=dict)  # procedures that only assign, and their parameters
    used: set[str] = field(default_factory=set)
    lets: dict[str, str] = field(default_factory=dict)  # each `let` as it is written, and the sort of its value
    two_state: bool = False
    foresees: bool = False  # in a condition on the state after a step, which has not failed
    starred: bool = False  # this step assigns any value somewhere
    coded: bool = False  # and this one looks at the state after it, with a code
    operation: str = ""
    plain: bool = False  # in a component with parameters: variables have names of their own

    def name(self, hint: str = "n") -> str:
        """A new name of the system, sometimes a difficult one."""
        free = [n for n in NASTY if n not in self.used]
        text = self.rng.choice(free) if free and self.rng.random() < 0.6 else f"{hint}{len(self.used)}"
        while text in self.used:
            text += "z"
        self.used.add(text)
        return text

    def local(self, scope: Scope) -> str:
        """A name for a variable: it may hide a name of the system, but not of the operation."""
        if self.plain:
            return next(n for n in (f"w{k}" for k in itertools.count(len(scope))) if n not in scope)
        pool = [n for n in (*NASTY, *sorted(self.used)) if n not in scope]
        return self.rng.choice(pool) if self.rng.random() < 0.7 else f"w{len(scope)}"

    def sort(self, small: bool = False) -> str:
        """Any sort."""
        if self.rng.random() < (0.7 if small else 0.25):
            return self.rng.choice([*self.enums, "bool"])
        return self.rng.choice([*self.sorts, *(["Call"] if self.rng.random() < 0.1 else [])])

    # Expressions.

    def places(self, scope: Scope, sort: str, depth: int) -> list[str]:
        """Some reads of state with a value of this sort."""
        out = []
        for name, (index, fields) in self.states.items():
            hits = [f for f, s in fields if s == sort]
            if hits and (index or name not in scope):
                text = f"{name}[{', '.join(self.of(scope, i, depth - 1) for i in index)}]" if index else name
                part = self.rng.choice(hits)
                out.append(f"{text}.{part}" if part else text)
        for name, kind in scope.items():
            if isinstance(kind, tuple):
                out += [f"{name}.{f}" for f, s in kind if s == sort]
        out += [
            f"{path}[{self.of(scope, 'Call', depth - 1)}]"
            for path, s in self.kept.items()
            if s == sort and path.split(".")[0] not in scope
        ]
        return out

    def of(self, scope: Scope, sort: str, depth: int = 2) -> str:
        """An expression of a sort."""
        if sort == "bool" and depth > 0:
            return f"({self.formula(scope, depth)})"
        simple = [n for n, k in scope.items() if k == sort]
        simple += [c for c, s in self.consts.items() if s == sort and c not in scope]
        simple += [m for m in self.enums.get(sort, ()) if m not in scope]
        simple += ["true", "false"] if sort == "bool" else []
        if depth > 0:
            if self.rng.random() < 0.5 or not simple:
                simple += self.places(scope, sort, depth)
            for name, (params, result) in self.defines.items():
                if result == sort and self.rng.random() < 0.3:
                    simple.append(f"{name}({', '.join(self.of(scope, p, depth - 1) for p in params)})")
        if not simple and depth > -3:
            simple = self.places(scope, sort, min(depth, 0))
        if not simple:
            raise LookupError(sort)
        text = self.rng.choice(simple)
        if self.two_state and self.rng.random() < 0.4:
            return f"next({text})"
        if depth > 1 and self.rng.random() < 0.1:
            return f"(if {self.formula(scope, depth - 2)} then {text} else {self.of(scope, sort, 0)})"
        return text

    def formula(self, scope: Scope, depth: int = 2) -> str:
        """A truth value."""
        r = self.rng.random()
        if depth <= 0 or r < 0.35:
            sort = self.sort(small=r < 0.1)
            if sort in self.enums and r < 0.06:
                members = list(self.enums[sort])
                if not set(members) & scope.keys():
                    some = self.rng.sample(members, k=self.rng.randint(1, len(members)))
                    return f"{self.of(scope, sort, depth)} in {{ {', '.join(some)} }}"
            if sort == "bool" or r < 0.25:
                atoms = self.places(scope, "bool", max(depth, 1)) + [n for n, k in scope.items() if k == "bool"]
                if self.points and r < 0.12 and "at" not in scope:
                    point = self.rng.choice(["idle", *self.points])
                    if point.split(".")[0] not in scope:
                        atoms = [f"at[{self.of(scope, 'Call', 0)}] = {point}"]
                if self.two_state and not self.foresees and self.rng.random() < 0.2:
                    return "failed"
                if atoms:
                    text = self.rng.choice(atoms)
                    text = f"next({text})" if self.two_state and self.rng.random() < 0.4 else text
                    return text if r < 0.2 else f"not ({text})"
            left, right = self.of(scope, sort, max(depth - 1, 0)), self.of(scope, sort, max(depth - 1, 0))
            if r > 0.33:
                return f"distinct({left}, {right}, {self.of(scope, sort, 0)})"
            return f"{left} {'=' if r < 0.28 else '!='} {right}"
        if r < 0.55:
            word = self.rng.choice(("and", "or", "implies", "iff"))
            return f"({self.formula(scope, depth - 1)}) {word} {self.last(self.formula(scope, depth - 1))}"
        if r < 0.65:
            return f"not {self.last(self.formula(scope, depth - 1))}"
        inner = dict(scope)
        binders: list[str] = []
        for _ in range(self.rng.randint(1, 2)):
            sort = self.sort()
            name = self.local(inner) if self.rng.random() < 0.8 else self.local({})
            if any(name == b.split(":")[0] for b in binders) or name == "this":
                continue
            inner[name] = sort
            binders.append(f"{name}: {sort}")
        if not binders:
            return self.formula(scope, depth - 1)
        return f"({self.rng.choice(('forall', 'exists'))} {self.listed(binders)}. {self.formula(inner, depth - 1)})"

    def last(self, formula: str) -> str:
        """A formula after which a formula ends, in brackets: but a quantifier now and then without."""
        if formula.startswith(("(forall ", "(exists ")) and self.rng.random() < 0.5:
            depth = list(itertools.accumulate((c == "(") - (c == ")") for c in formula))
            if depth.index(0) == len(formula) - 1:
                return formula[1:-1]
        return f"({formula})"

    def listed(self, binders: list[str]) -> str:
        """Binders with commas between; neighbours of one sort may share it."""
        text = ""
        for k, binder in enumerate(binders):
            sort = binder.partition(": ")[2]
            shared = k + 1 < len(binders) and binders[k + 1].partition(": ")[2] == sort and self.rng.random() < 0.5
            text += (", " if k else "") + (binder.partition(": ")[0] if shared else binder)
        return text

    # Statements.

    def assign(self, scope: Scope, choosing: bool = True) -> str:
        """A `set`, of one place or of many; of any values now and then, where it may be `choosing`."""
        writable = [n for n in self.states if n not in self.fixed and (self.states[n][0] or n not in scope)]
        name = self.rng.choice(writable)
        index, fields = self.states[name]
        inner = dict(scope)
        binders: list[str] = []
        args: list[str] = []
        for sort in index:
            r = self.rng.random()
            same = [b.split(":")[0] for b in binders if b.endswith(f" {sort}")]
            if r < 0.3:
                var = self.local(inner)
                inner[var] = sort
                binders.append(f"{var}: {sort}")
                args.append(var)
            elif r < 0.4 and same:
                args.append(self.rng.choice(same))
            else:
                args.append(self.of(scope, sort, 1))
        limits = dict(inner)
        if self.rng.random() < 0.12:
            var = self.local(limits)
            sort = self.sort()
            limits[var] = sort
            binders.append(f"{var}: {sort}")
        text = f"{name}[{', '.join(args)}]" if index else name
        if any(a in limits and a not in scope and a not in inner for a in args):
            raise LookupError(text)
        plain = all(a in inner or b.split(":")[0] not in a for a in args for b in binders)
        any_value = choosing and not self.coded and len(binders) < 2 and plain and self.rng.random() < 0.15
        self.starred |= any_value
        if any_value:
            value = "*"
            if fields[0][0] and self.rng.random() < 0.5:
                values = ["*", *(self.of(inner, s, 1) for _, s in fields[1:])]
                value = "{ " + ", ".join(f"{f}: {v}" for (f, _), v in zip(fields, values, strict=True)) + " }"
        elif fields[0][0] == "":
            value = self.of(inner, fields[0][1], 1)
        elif (others := self.records(scope, name)) and self.rng.random() < 0.3:
            value = self.rng.choice(others)
        elif self.rng.random() < 0.5:
            value = "{ " + ", ".join(f"{f}: {self.of(inner, s, 1)}" for f, s in fields) + " }"
        else:
            part, sort = self.rng.choice(fields)
            text, value = f"{text}.{part}", self.of(inner, sort, 1)
        out = f"set {text} = {value}"
        if binders:
            out += f" for all {self.listed(binders)}"
        if self.rng.random() < 0.35:
            out += f" where {self.formula(limits, 1)}"
        return out

    def records(self, scope: Scope, name: str) -> list[str]:
        """Whole records with the fields of a state: locals, and places of states."""
        fields = self.states[name][1]
        out = [n for n, kind in scope.items() if kind == tuple(fields)]
        for other, (index, given) in self.states.items():
            if given == fields and (index or other not in scope):
                out.append(f"{other}[{', '.join(self.of(scope, i, 0) for i in index)}]" if index else other)
        return out

    def undo(self, scope: Scope) -> str:
        """An `undo`, sometimes."""
        if self.rng.random() > 0.3:
            return ""
        return f" undo {' '.join(self.undone(scope) for _ in range(self.rng.randint(1, 2)))} end"

    def undone(self, scope: Scope) -> str:
        """What an `undo` does: it assigns, or performs a procedure that only assigns."""
        if self.assigning and self.rng.random() < 0.5:
            name, params = self.rng.choice(list(self.assigning.items()))
            return f"perform {name}({', '.join(self.of(scope, p, 1) for p in params)})"
        return self.assign(scope, False)

    def statements(self, scope: Scope, count: int, procedures: Procedures, boundaries: bool, op: str) -> list[str]:
        """A sequence of statements; `scope` grows with their definitions."""
        out: list[str] = []
        steps = self.rng.choice((0, 0, 1, 2)) if boundaries else 0
        batch = boundaries and self.rng.random() < 0.2
        marks = ["step"] * steps if not batch else ["each", *["step"] * self.rng.choice((0, 0, 1)), "done"]
        performed: set[str] = set()
        if marks:
            scope["this"] = "Call"
        for part in range(len(marks) + 1):
            self.starred = self.coded = False
            for _ in range(self.rng.randint(1, count)):
                out.append(self.statement(scope, procedures, performed))
            if part < len(marks):
                params = []
                if marks[part] == "done":
                    out.append("done")
                    continue
                label = self.name("s")
                if marks[part] == "each" or self.rng.random() < 0.4:
                    for _ in range(self.rng.randint(0, 1)):
                        sort, var = self.sort(), self.local(scope)
                        scope[var] = sort
                        params.append(f"{var}: {sort}")
                self.points.append(f"{op}.{label}")
                out.append(f"{marks[part]} {label}" + (f"({', '.join(params)})" if params or marks[part] == "each" else ""))
        return out

    def statement(self, scope: Scope, procedures: Procedures, performed: set[str]) -> str:
        """One statement that is not a boundary; if one kind is impossible, another."""
        for _ in range(8):
            try:
                return self._statement(scope, procedures, performed)
            except LookupError:
                continue
        return 'may fail EIO "nothing else could be made"'

    def _statement(self, scope: Scope, procedures: Procedures, performed: set[str]) -> str:
        """One statement that is not a boundary."""
        r = self.rng.random()
        code = self.rng.choice(CODES)
        if r < 0.05:
            self.two_state = self.foresees = True
            try:
                text = f"require {self.formula(scope, 1)}"
            finally:
                self.two_state = self.foresees = False
            if self.starred or self.rng.random() < 0.6:
                return text
            self.coded = True
            return f"{text} else {code}{self.undo(scope)}"
        if r < 0.2:
            text = f"require {self.formula(scope, 2)}"
            return text if r < 0.07 else f"{text} else {code}{self.undo(scope)}"
        if r < 0.27:
            return f'may fail {code} "why"{self.undo(scope)}'
        if r < 0.37:
            undo, var, sort = self.undo(scope), self.local(scope), self.sort()
            if var != "this":
                scope[var] = sort
                binders = [f"{var}: {sort}"]
                if self.rng.random() < 0.3:
                    var, sort = self.local(scope), sort if self.rng.random() < 0.5 else self.sort()
                    if var != "this":
                        scope[var] = sort
                        binders.append(f"{var}: {sort}")
                where = f" where {self.formula(scope, 1)}" if self.rng.random() < 0.7 else ""
                text = f"pick {self.listed(binders)}{where}"
                return text if self.rng.random() < 0.2 else f"{text} else {code}{undo}"
        if r < 0.5:
            var = self.local(scope)
            records = [n for n, (_, fields) in self.states.items() if fields[0][0] and (self.states[n][0] or n not in scope)]
            if records and self.rng.random() < 0.5:
                name = self.rng.choice(records)
                index = ", ".join(self.of(scope, i, 1) for i in self.states[name][0])
                scope[var] = tuple(self.states[name][1])
                return f"let {var} = {name}[{index}]" if index else f"let {var} = {name}"
            sort = self.sort()
            text = f"let {var} = {self.of(scope, sort, 2)}"
            self.lets[text] = sort
            scope[var] = sort
            return text
        if r < 0.62 and procedures:
            name = self.rng.choice(list(procedures))
            params, result, locals_ = procedures[name].params, procedures[name].result, procedures[name].locals
            if procedures[name].steps and (name in performed or self.rng.random() < 0.5):
                raise LookupError(name)
            args = ", ".join(self.of(scope, p, 1) for p in params)
            text = f"perform {name}({args})"
            prefix = ""
            if name in performed or self.rng.random() < 0.5:
                given = self.local(scope)
                prefix = given + "_"
                text += f" as {given}"
                if any(prefix + n in scope for n in locals_):
                    raise LookupError(text)
                if result is not None:
                    scope[given] = result
            elif any(n in scope for n in locals_):
                raise LookupError(text)
            performed.add(name)
            self.points += [f"{self.operation}.{step}" for step in procedures[name].steps]
            for n, k in locals_.items():
                scope[prefix + n] = k
            return text + (f" else {self.rng.choice(CODES)}" if self.rng.random() < 0.3 else "")
        return self.assign(scope)


def draft(seed: int) -> Draft:
    """The random system of a seed."""
    for attempt in range(50):
        try:
            return _draft(random.Random(seed * 1000 + attempt))
        except LookupError:
            continue
    raise LookupError(seed)


def _draft(rng: random.Random) -> Draft:
    m = Maker(rng)
    parts: list[Part] = []
    for _ in range(rng.choice((1, 1, 2))):
        m.sorts.append(m.name("T"))
        parts.append(Part(f'sort {m.sorts[-1]} "a sort"'))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        enum = m.name("E")
        m.enums[enum] = [m.name("m") for _ in range(rng.choice((1, 2, 2, 3)))]
        parts.append(Part(f"enum {enum} = {' | '.join(m.enums[enum])}"))
    for _ in range(rng.choice((0, 0, 1, 2))):
        const = m.name("c")
        m.consts[const] = m.sort()
        if m.consts[const] == "Call":
            m.consts[const] = m.sorts[0]
        parts.append(Part(f"const {const}: {m.consts[const]}"))
    for _ in range(rng.choice((1, 2, 2, 3))):
        _state(m, parts)
    templates, uses = _instances(m) if rng.random() < 0.3 else ((), ())
    if len(m.states) > 1 and rng.random() < 0.25:
        written = {p.head.split("[")[0].split()[-1] for p in parts if " writable by " in p.head}
        m.fixed += [n for n in m.states if n not in written][:1]
    for _ in range(rng.choice((0, 0, 1, 2))):
        scope: Scope = {}
        params = []
        for _ in range(rng.randint(0, 2)):
            var, sort = m.local(scope), m.sort()
            scope[var] = sort
            params.append(f"{var}: {sort}")
        result = "bool" if rng.random() < 0.6 else m.sort()
        body = m.formula(scope, 2) if result == "bool" else m.of(scope, result, 2)
        name = m.name("d")
        parts.append(Part(f"define {name}({', '.join(params)}){'' if result == 'bool' else f': {result}'} = {body}"))
        m.defines[name] = [str(s) for s in scope.values()], result
    if m.consts and rng.random() < 0.3:
        c, sort = rng.choice(list(m.consts.items()))
        parts.append(Part(f"axiom {c} {'=' if rng.random() < 0.5 else '!='} {m.of({}, sort, 0)}"))
    if m.fixed and rng.random() < 0.5:
        keep = m.states, m.defines
        m.states, m.defines = {n: m.states[n] for n in m.fixed}, {}
        parts.append(Part(f"axiom {m.formula({}, 2)}"))
        m.states, m.defines = keep
    body_parts = _operations(m)
    for _ in range(rng.choice((0, 1, 1, 2))):
        parts.append(_init(m))
    if m.points and rng.random() < 0.8:
        parts.append(Part("init forall c: Call. at[c] = idle"))
    parts += body_parts
    parts += _further_faults(m, parts, body_parts) or _faults(m, body_parts)
    for _ in range(rng.choice((1, 2, 3))):
        kind = rng.choice(("theorem", "theorem", "transition", "invariant"))
        m.two_state = kind == "transition"
        parts.append(Part(f"{kind} claim{len(parts)} {m.formula({}, 3)}"))
        m.two_state = False
    if rng.random() < 0.5:
        parts.append(_scenario(m, body_parts))
    return _trimmed(m, parts, Draft(tuple(parts), templates, uses))


def _state(m: Maker, parts: list[Part]) -> None:
    rng = m.rng
    name = m.name("p")
    index = [m.sort() for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    if len(index) == 2 and rng.random() < 0.2:
        index.append("bool")
    if rng.random() < 0.25:
        fields: list[tuple[str, str]] = []
        for k in range(rng.choice((1, 1, 2, 2, 3))):
            name_ = rng.choice(("live", "value", "f", "owner")) + ("" if k == 0 else str(k + 1))
            fields.append((name_, fields[-1][1] if k and rng.random() < 0.3 else m.sort(small=True)))
    else:
        fields = [("", m.sort(small=rng.random() < 0.8))]
    shown = fields[0][1] if fields[0][0] == "" else "{ " + m.listed([f"{f}: {s}" for f, s in fields]) + " }"
    names = [rng.choice(("", f"who{k}", f"x{k}")) for k in range(len(index))]
    m.states[name] = index, fields
    written = ""
    if index and rng.random() < 0.15:
        names[0] = names[0] or "who"
        scope: Scope = {n: s for n, s in zip(names, index, strict=True) if n}
        scope |= {f or "value": s for f, s in fields}
        if not {n for n in names if n} & {f or "value" for f, _ in fields}:
            written = f" writable by {names[0]}" + (f" as {m.name('write')}" if rng.random() < 0.5 else "")
            if not written.count(" as "):
                m.used.add(f"write_{name}")
            if rng.random() < 0.4:
                written += f" when {m.formula(scope, 1)}"
            if rng.random() < 0.4:
                written += f" then {' '.join(m.assign(scope) for _ in range(rng.choice((1, 1, 2))))}"
    places = ", ".join(f"{n}: {s}" if n else s for n, s in zip(names, index, strict=True))
    ghost, shown_index = "ghost " if rng.random() < 0.1 else "", f"[{places}]" if index else ""
    parts.append(Part(f"{ghost}state {name}{shown_index}: {shown}{written}"))


def _scenario(m: Maker, operations: list[Part]) -> Part:
    """A run of a few calls, with conditions and other steps in between."""
    rng = m.rng
    elements: Scope = {}
    for k in range(rng.randint(0, 2)):
        elements[f"e{k}"] = m.sort() if rng.random() < 0.8 else "Call"
    called = [op for op in operations if not op.head.startswith("procedure")]
    lines: list[str] = []
    for _ in range(rng.choice((1, 2, 3))):
        if not called or rng.random() < 0.2:
            lines.append(f"assert {m.formula(elements, 1)}")
        elif rng.random() < 0.25:
            lines.append("...")
        else:
            lines.append(_called(m, rng.choice(called), elements))
    binders = f" for {', '.join(f'{n}: {k}' for n, k in elements.items())}" if elements else ""
    return Part(f"scenario run1 {rng.choice(('possible', 'impossible'))}{binders}", (*lines, "end"))


def _called(m: Maker, op: Part, elements: Scope) -> str:
    """A call of the first step of an operation, or of a later one; open arguments, places, names and a code now and then."""
    rng = m.rng
    name, _, rest = op.head.partition("(")
    name = name.split()[-1]
    params: list[tuple[str, str]] = []
    for word in reversed([p for p in rest.partition(")")[0].split(", ") if p]):  # `a, b: S` gives both a sort
        param, _, sort = word.partition(": ")
        params.insert(0, (param, sort or params[0][1]))
    given = len(params)
    first = list(itertools.takewhile(lambda b: b.split()[0] not in ("step", "each", "done"), op.body))
    later = [b.split("(")[0].split()[-1] for b in op.body if b.split()[0] in ("step", "each", "done")]
    checks = [b.partition(" undo ")[0].rpartition(" else ") for b in first if b.startswith(("require ", "pick "))]
    codes = [code for _, word, code in checks if word and code.isidentifier()]
    calls = [n for n, k in elements.items() if k == "Call"]
    if later and rng.random() < 0.4:
        return f"{name}.{rng.choice(later)}({f'this: {rng.choice(calls)}' if calls and rng.random() < 0.7 else ''})"
    picks = [b.partition(" where ")[0].partition(" else ")[0].removeprefix("pick ") for b in first if b.startswith("pick ")]
    params += [(pick.partition(": ")[0], pick.partition(": ")[2]) for pick in picks if "," not in pick]
    args = []
    named = False
    for k, (param, sort) in enumerate(params):
        if k >= given and (not named or rng.random() < 0.3):
            break  # what is picked goes by its name
        r = rng.random()
        if r < 0.4:
            args.append(f"{param}: {m.of(elements, sort, 1)}")
            named = True
        elif r < 0.7 and not named:
            args.append(m.of(elements, sort, 1))
        elif not named:
            args.append("_")
    return f"{name}({', '.join(args)})" + (f" fails {rng.choice(codes)}" if codes and rng.random() < 0.4 else "")


def _instances(m: Maker) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A component with parameters, now and then one that uses it, and their uses; `m` then knows what they declare."""
    rng = m.rng
    inner = Maker(rng, sorts=["P"], used={"P", *m.used}, plain=True)
    parts: list[Part] = []
    for _ in range(rng.choice((1, 2))):
        _state(inner, parts)
    if rng.random() < 0.5:
        const = inner.name("c")
        inner.consts[const] = "P"
        parts.append(Part(f"const {const}: P"))
    scope: Scope = {"w0": "P"}
    define = inner.name("d")
    parts.append(Part(f"define {define}(w0: P) = {inner.formula(scope, 2)}"))
    inner.defines[define] = ["P"], "bool"
    operations = _operations(inner)
    faults = [replace(f, head=f.head.replace("fault fault1", "fault fault0")) for f in _faults(inner, operations)]
    parts += [_init(inner), *operations, *faults]
    parts.append(Part(f"invariant own{len(m.used)} {inner.formula({}, 2)}"))
    own = [*inner.states, *inner.consts, *inner.defines]
    given = rng.sample(own, rng.randint(0, min(2, len(own))))
    text = "\n".join(part.text() for part in parts)
    templates = [f'component small(sort P{"".join(f", {n}" for n in given)}) "of a sort"\n{text}']
    uses: list[str] = []

    def known(sort: str, names: Mapping[str, str], prefix: str) -> None:
        """Note what an instance declares, under the names that it has in `gen`."""
        at = {n: names.get(n, prefix + n) for n in own}
        of = {"P": sort}
        for n, (index, fields) in inner.states.items():
            m.states[at[n]] = [of.get(i, i) for i in index], [(f, of.get(k, k)) for f, k in fields]
        m.consts.update({at[n]: of.get(k, k) for n, k in inner.consts.items()})
        m.defines.update({at[n]: ([of.get(i, i) for i in index], k) for n, (index, k) in inner.defines.items()})
        m.used.update(at.values(), (prefix + n for n in inner.used))

    count = rng.choice((1, 2))
    for k in range(count):
        prefix = "" if k == 0 and rng.random() < 0.5 else m.name("i")
        sort = rng.choice(m.sorts)
        args = {n: m.name("g") for n in given}
        uses.append(f"small({', '.join([sort, *args.values()])})" + (f" as {prefix}" if prefix else ""))
        known(sort, args, f"{prefix}_" if prefix else "")
    if rng.random() < 0.4:  # a component with parameters that uses the other one
        outer, again, deeper = m.name("o"), m.name("u"), [f"h{k}" for k in range(len(given))]
        arguments = "".join(f", {n}" for n in deeper)
        templates.append(f'component larger(sort Q{arguments}) "uses another"\nuses small(Q{arguments}) as {again}')
        sort, args = rng.choice(m.sorts), {n: m.name("g") for n in given}
        uses.append(f"larger({', '.join([sort, *args.values()])}) as {outer}")
        known(sort, args, f"{outer}_{again}_")
        if rng.random() < 0.5:  # and has something of its own
            templates[-1] += "\nstate extra[Q]: bool\ninit forall w0: Q. not extra[w0]"
            m.states[f"{outer}_extra"] = [sort], [("", "bool")]
            m.used.add(f"{outer}_extra")
    if rng.random() < 0.1:
        templates.append('component bare(sort R) "nothing"')
        uses.append(f"bare({rng.choice(m.sorts)})")
    return tuple(templates), tuple(uses)


def _operations(m: Maker) -> list[Part]:
    rng = m.rng
    parts: list[Part] = []
    procedures: Procedures = {}
    for k in range(rng.choice((1, 2, 3, 4))):
        kind = "procedure" if k == 0 and rng.random() < 0.5 else rng.choice(KINDS)
        name = m.name("op")
        scope: Scope = {}
        params = []
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
            var, sort = m.local(scope), m.sort()
            scope[var] = sort
            params.append(f"{var}: {sort}")
        when = f" when {m.formula(scope, 1)}" if kind != "procedure" and rng.random() < 0.25 else ""
        given = set(scope)
        points = list(m.points)
        m.operation = name
        if kind == "procedure" and rng.random() < 0.4:  # one for an `undo`
            body = [m.assign(scope, False) for _ in range(rng.randint(1, 2))]
        else:
            body = m.statements(scope, 3, procedures, kind != "procedure" or rng.random() < 0.3, name)
        result = None
        if rng.random() < (0.5 if kind == "procedure" else 0.15):
            plain = [(n, str(s)) for n, s in scope.items() if isinstance(s, str) and n != "this"]
            if plain:
                var, result = rng.choice(plain)
                body.append(f"return {var}")
                result = result if rng.random() < 0.7 else None
        parts.append(Part(f"{kind} {name}({m.listed(params)}){f' -> {result}' if result else ''}{when}", tuple(body)))
        if kind == "procedure":
            steps = tuple(p.split(".")[1] for p in m.points if p not in points)
            m.points = points
            if any(b.startswith("each ") for b in body):
                continue  # performed within another batch it would be refused
            procedures[name] = Procedure(
                tuple(str(scope[n]) for n in scope if n in given),
                result,
                {n: s for n, s in scope.items() if n not in given and n != "this"},
                steps,
            )
            if all(b.startswith("set ") and "*" not in b for b in body):
                m.assigning[name] = procedures[name].params
        elif len(m.points) > len(points):
            for n, s in scope.items():
                if n in given and isinstance(s, str) and rng.random() < 0.5:
                    m.kept[f"{name}.{n}"] = s
    return parts


def _init(m: Maker) -> Part:
    """Usually one value everywhere, so that there are few initial states."""
    rng = m.rng
    if rng.random() < 0.25:
        return Part(f"init {m.formula({}, 2)}")
    name = rng.choice(list(m.states))
    index, fields = m.states[name]
    part, sort = rng.choice(fields)
    binders = [(f"q{k}", s) for k, s in enumerate(index)]
    place = f"{name}[{', '.join(v for v, _ in binders)}]" if index else name
    place = f"{place}.{part}" if part else place
    value = m.of(dict(binders), sort, 0)
    quantified = f"forall {', '.join(f'{v}: {s}' for v, s in binders)}. " if binders else ""
    return Part(f"init {quantified}{place} = {value}")


def _faults(m: Maker, operations: list[Part]) -> list[Part]:
    """A fault, sometimes: it repeats a check or an assignment of some operation."""
    rng = m.rng
    if rng.random() > 0.5:
        return []
    op = rng.choice(operations)
    name = op.head.split("(")[0].split()[1]
    boundaries = [b.split("(")[0].split()[-1] for b in op.body if b.split()[0] in ("step", "each", "done")]
    st = rng.choice(op.body)
    if st.startswith("require "):
        cond = st.removeprefix("require ").rpartition(" else ")[0].split(" else ")[0] if " undo " not in st else ""
        if " else " not in st:
            cond = st.removeprefix("require ")
        if not cond or " else " in st.removeprefix("require ")[: len(cond)] or cond.count("(") != cond.count(")"):
            return []
        changes = [
            f"drop {cond}",
            f"replace {cond} with not ({cond})",
            *(f"move {cond} to {b}" for b in boundaries[-1:] * 4),
        ]
    elif st.startswith("pick ") and " where " in st and " undo " not in st:
        cond = st.partition(" where ")[2]
        cond = cond.rpartition(" else ")[0] if " else " in cond else cond
        if cond.count("(") != cond.count(")"):
            return []
        changes = [f"drop {cond}", f"replace {cond} with not ({cond})"]
    elif st.startswith("set ") and " = " in st:
        place = st.removeprefix("set ").partition(" = ")[0]
        changes = [f"skip {place}", f"assign {place} = *"]
    else:
        return []
    return [Part(f"fault fault1 within {name} {rng.choice(changes)}")]


def _further_faults(m: Maker, parts: list[Part], operations: list[Part]) -> list[Part]:
    """A fault in something else than a check or an assignment, now and then."""
    rng = m.rng
    if rng.random() > 0.45:
        return []
    changes = [c for p in parts if p.head.startswith("define ") for c in _of_definition(p.head)]
    for op in operations:
        name, here = op.head.split("(")[0].split()[1], ""
        later = [b.split("(")[0].split()[-1] for b in op.body if b.split()[0] in ("step", "each", "done")]
        if " when " in op.head:
            changes += _of_condition(name, op.head.partition(" when ")[2])
        for st in op.body:
            if st.split()[0] in ("step", "each", "done"):
                here = "." + st.split("(")[0].split()[-1]
            changes += _of_statement(m, name + here, st)
            if later and not here and st.startswith("require ") and " undo " not in st and "next(" not in st:
                cond = st.removeprefix("require ").rpartition(" else ")[0]
                changes += [f"within {name} move {cond} to {later[-1]}"] * (
                    bool(cond) and cond.count("(") == cond.count(")")
                )
        changes.append(f"within {name}{rng.choice(('', here))} add {m.assign({})}")
    if not changes:
        return []
    kinds: dict[str, list[str]] = {}  # each as often, for assignments can always be added
    for change in changes:
        verb, what = change.split()[2:4]
        of = " of a definition" if change.split()[1] in m.defines else ""
        kinds.setdefault(f"{verb} {what}" if what in ("undo", "may") else verb + of, []).append(change)
    picked = [rng.choice(kinds[kind]) for kind in rng.sample(sorted(kinds), min(len(kinds), rng.choice((1, 1, 2))))]
    return [Part(f"fault fault1 {' '.join(picked)}")]


def _of_definition(head: str) -> list[str]:
    name, _, rest = head.removeprefix("define ").partition("(")
    before, _, body = rest.partition(" = ")
    if not before.endswith(")"):
        return []  # not a truth value
    found = [f"within {name} replace {body} with not ({body})"]
    depth = list(itertools.accumulate((c == "(") - (c == ")") for c in body))
    end = depth.index(0) if body.startswith("(") else 0
    if body[end:].startswith(") and "):
        found += [f"within {name} drop {body[1:end]}"] * 2
    return found


def _of_condition(path: str, cond: str) -> list[str]:
    whole = cond.count("(") == cond.count(")")
    return [f"within {path} drop {cond}", f"within {path} replace {cond} with not ({cond})"] if whole else []


def _of_statement(m: Maker, path: str, st: str) -> list[str]:
    """The possible changes of a `let`, a `may fail`, an `undo`, or the `where` of an assignment."""
    if st in m.lets:
        return [f"within {path} let {st.split()[1]} = {m.of({}, m.lets[st], 1)}"]
    found = [f"within {path} drop may fail {st.split()[2]}"] if st.startswith("may fail ") else []
    before, undo, undone = st.partition(" undo ")
    if undo:
        code = before.split()[2] if before.startswith("may fail ") else before.split()[-1]
        found.append(f"within {path} drop undo {code}")
        if undone.startswith("set "):
            place = undone.removeprefix("set ").partition(" = ")[0]
            found.append(f"within {path} skip undo {place}")
            value = _value_for(m, place)
            found += [f"within {path} assign undo {place} = {value}"] * bool(value)
    elif st.startswith("set ") and " where " in st:
        found += _of_condition(path, st.partition(" where ")[2])
    return found


def _value_for(m: Maker, place: str) -> str:
    """A value without variables for a place; none where it is a whole record, or where there is no value."""
    head = place.partition("[")[0].partition(".")[0]
    part = place.rpartition("]")[2].removeprefix(".") if "[" in place else place.partition(".")[2]
    sort = dict(m.states[head][1]).get(part)
    try:
        return "" if sort is None else m.of({}, sort, 0)
    except LookupError:
        return ""


def _trimmed(m: Maker, parts: list[Part], d: Draft) -> Draft:
    """The draft with what says little: strings, sizes, what a fault breaks, components that only use others."""
    rng = m.rng
    claims = [p.head.split()[1] for p in parts if p.head.startswith(("theorem ", "transition ", "invariant "))]
    labels = [p.head.split("(")[0].split()[1] for p in parts if p.head.startswith(tuple(f"{k} " for k in KINDS))]
    out = []
    for p in parts:
        if p.head.startswith("fault ") and claims and labels and rng.random() < 0.3:
            broken = ", ".join(rng.sample(claims, min(len(claims), rng.choice((1, 2)))))
            p = replace(p, head=p.head.replace(" within ", f" breaks {broken} in {rng.choice(labels)} within ", 1))
        if not p.head.startswith(("sort ", "scope ")) and rng.random() < 0.3:
            p = replace(p, doc="what it is for")
        out.append(p)
    sizes = [f"{n} = {rng.choice(('1', '2', '1 to 2', '2 to 3'))}" for n in (*m.sorts, "Call") if rng.random() < 0.6]
    if sizes and rng.random() < 0.15:
        out.insert(rng.randrange(len(out) + 1), Part(f"scope {', '.join(sizes)}"))
    scopes = [f"scope {', '.join(sizes)}"] if sizes and rng.random() < 0.15 else []
    if len(sizes) > 1 and scopes and rng.random() < 0.5:
        scopes = [f"scope {size}" for size in sizes]
    more = [
        text
        for text in (
            'component every.thing "all of it"\nuses gen',
            'component no.thing.more "nothing"',
            'component last "it"',
        )
        if rng.random() < 0.1
    ]
    return replace(
        d,
        parts=tuple(out),
        more=tuple(more),
        scopes=tuple(scopes),
        falling=rng.choice((0, 0, 1, 2)),
        first=rng.random() < 0.2,
    )


def smaller(d: Draft) -> list[Draft]:
    """Drafts with one part or statement less, the largest cuts first."""
    out = []
    n = len(d.parts)
    for size in sorted({max(1, n // 2), max(1, n // 4), 1}, reverse=True):
        out += [replace(d, parts=d.parts[:k] + d.parts[k + size :]) for k in range(0, n, size)]
    for k, part in enumerate(d.parts):
        for j in range(len(part.body)):
            less = replace(part, body=part.body[:j] + part.body[j + 1 :])
            out.append(replace(d, parts=(*d.parts[:k], less, *d.parts[k + 1 :])))
    for k, part in enumerate(d.parts):  # what follows a head
        for word in (" then ", " when "):
            if word in part.head and not part.head.startswith("fault "):
                less = replace(part, head=part.head.partition(word)[0])
                out.append(replace(d, parts=(*d.parts[:k], less, *d.parts[k + 1 :])))
    out += [replace(d, uses=d.uses[:k] + d.uses[k + 1 :]) for k in range(len(d.uses))]
    out += [replace(d, more=(), scopes=(), falling=0, first=False)] if d.more or d.scopes or d.falling or d.first else []
    return out


__all__ = ["Draft", "Part", "draft", "smaller"]

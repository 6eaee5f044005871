"""Random names, terms, conditions, assignments and statements of one system, well-formed by construction.

Names are difficult on purpose. Not here: whole items (`random_items.py`).
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

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


__all__ = ["Maker", "Procedure", "Procedures", "Scope"]

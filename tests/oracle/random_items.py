"""Random state functions, operations and initial states.

Not here: scenarios, faults, components with parameters; each has a file of its own.
"""

from __future__ import annotations

from tests.oracle.draft import Part
from tests.oracle.random_terms import Maker, Procedure, Procedures, Scope

KINDS = ("internal", "request", "hypercall", "ioctl", "syscall", "guest")


def state(m: Maker, parts: list[Part]) -> None:
    """Add a state function: of any index, with one value or some fields, written by parties now and then."""
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


def operations(m: Maker) -> list[Part]:
    """Operations and the procedures that they perform. `m` then knows their points, and locals that others may read."""
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


def initial(m: Maker) -> Part:
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


__all__ = ["KINDS", "initial", "operations", "state"]

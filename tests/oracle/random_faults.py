"""Random faults of a random system: in checks, assignments, and everything else that a fault may change."""

from __future__ import annotations

import itertools

from tests.oracle.draft import Part
from tests.oracle.random_terms import Maker


def faults(m: Maker, operations: list[Part]) -> list[Part]:
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


def further_faults(m: Maker, parts: list[Part], operations: list[Part]) -> list[Part]:
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


__all__ = ["faults", "further_faults"]

"""Generates random systems over the whole language from a seed.

The pieces stand in files of their own: terms and statements (`random_terms.py`), items, faults, scenarios, components with
parameters. The checker decides whether a system is well-formed.
"""

from __future__ import annotations

import random
from dataclasses import replace

from tests.oracle.draft import Draft, Part
from tests.oracle.random_faults import faults, further_faults
from tests.oracle.random_instances import instances
from tests.oracle.random_items import KINDS, initial, operations, state
from tests.oracle.random_scenarios import scenario
from tests.oracle.random_terms import Maker, Scope


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
        state(m, parts)
    templates, uses = instances(m) if rng.random() < 0.3 else ((), ())
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
    body_parts = operations(m)
    for _ in range(rng.choice((0, 1, 1, 2))):
        parts.append(initial(m))
    if m.points and rng.random() < 0.8:
        parts.append(Part("init forall c: Call. at[c] = idle"))
    parts += body_parts
    parts += further_faults(m, parts, body_parts) or faults(m, body_parts)
    for _ in range(rng.choice((1, 2, 3))):
        kind = rng.choice(("theorem", "theorem", "transition", "invariant"))
        m.two_state = kind == "transition"
        parts.append(Part(f"{kind} claim{len(parts)} {m.formula({}, 3)}"))
        m.two_state = False
    if rng.random() < 0.5:
        parts.append(scenario(m, body_parts))
    return _trimmed(m, parts, Draft(tuple(parts), templates, uses))


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


__all__ = ["draft"]

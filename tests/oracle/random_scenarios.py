"""Random scenarios of a random system: calls, conditions, other steps in between."""

from __future__ import annotations

import itertools

from tests.oracle.draft import Part
from tests.oracle.random_terms import Maker, Scope


def scenario(m: Maker, operations: list[Part]) -> Part:
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


__all__ = ["scenario"]

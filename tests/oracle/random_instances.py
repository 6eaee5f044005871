"""Random components with parameters, and their uses in a random system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.oracle.draft import Part
from tests.oracle.random_faults import faults
from tests.oracle.random_items import initial, operations, state
from tests.oracle.random_terms import Maker, Scope


def instances(m: Maker) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A component with parameters, now and then one that uses it, and their uses; `m` then knows what they declare."""
    rng = m.rng
    inner = Maker(rng, sorts=["P"], used={"P", *m.used}, plain=True)
    parts: list[Part] = []
    for _ in range(rng.choice((1, 2))):
        state(inner, parts)
    if rng.random() < 0.5:
        const = inner.name("c")
        inner.consts[const] = "P"
        parts.append(Part(f"const {const}: P"))
    scope: Scope = {"w0": "P"}
    define = inner.name("d")
    parts.append(Part(f"define {define}(w0: P) = {inner.formula(scope, 2)}"))
    inner.defines[define] = ["P"], "bool"
    made = operations(inner)
    own_faults = [replace(f, head=f.head.replace("fault fault1", "fault fault0")) for f in faults(inner, made)]
    parts += [initial(inner), *made, *own_faults]
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


__all__ = ["instances"]

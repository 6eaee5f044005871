"""The abstraction function of XenStore, as a comparison: nodes, owners, permissions, values, connections and watches."""

from __future__ import annotations

from bulkhead.impl.tools.xenstored import Xenstored
from bulkhead.proofs.refinement.domb.store_side import GUESTS, StoreSide, letters
from bulkhead.proofs.refinement.domb.world import NOBODY
from bulkhead.proofs.refinement.lockstep.abstraction import Places


def compare(side: StoreSide, stored: Xenstored, out: Places) -> None:
    """Compare nodes, permissions, watches and connections; returns the differences."""
    if not side.changed:
        return
    side.changed = False
    T, book = side.book.T, side.book
    by_rules = {p for p in book.paths if side.there(p)}
    real = set(stored.store.nodes)
    if by_rules != real:
        for path in by_rules ^ real:
            out[f"node[{path}]"] = (path in by_rules, path in real)
        return
    _connections(side, stored, out)
    for path, node in stored.store.nodes.items():
        n = book.paths[path]
        owner, first = T["node.owner"][n], node.grants[0]
        rules: tuple[object, ...] = (owner, T["node.visit"][n] if owner else 0)
        found: tuple[object, ...] = (first.domid, side.visits.get(first.life) if first.domid else 0)
        if rules != found:
            out[f"node[{path}].owner"] = (rules, found)
        others = (bool(T["others.read"][n]), bool(T["others.write"][n]))
        if others != letters(first.letter):
            out[f"others[{path}]"] = (others, letters(first.letter))
        for d in GUESTS:
            k = n * (NOBODY + 1) + d
            if T["store_ring.introduced"][d]:
                given = bool(T["perm.given"][k]) and T["perm.visit"][k] == T["store_ring.visit"][d]
                entry = (bool(T["perm.read"][k]), bool(T["perm.write"][k])) if given else None
                life = stored.store.lives.get(d)
                grant = next((g for g in node.grants[1:] if g.domid == d and g.life == life), None)
                if entry != (None if grant is None else letters(grant.letter)):
                    out[f"entry[{path}, {d}]"] = (entry, grant)
        if side.values[path] != node.value:
            out[f"value[{path}]"] = (side.values[path], node.value)


def _connections(side: StoreSide, stored: Xenstored, out: Places) -> None:
    T, book = side.book.T, side.book
    there = {0, *(d for d in GUESTS if T["store_ring.introduced"][d])}
    if set(stored.store.lives) != there:
        out["domains that XenStore knows"] = (sorted(there), sorted(stored.store.lives))
    for d in GUESTS:
        c = stored.connections.get(d)
        rules = (bool(T["store_ring.introduced"][d]), bool(T["store_ring.ignored"][d]) if c is not None else False)
        real = (c is not None, c is not None and c.ignored)
        if rules != real:
            out[f"store_ring[{d}]"] = (rules, real)
        if c is not None and c.watches != side.watches.get(d, []):
            out[f"watches[{d}] as written"] = (side.watches.get(d), c.watches)
        mine = sum(1 for n in book.paths.values() if T["node.exists"][n] and T["node.owner"][n] == d)
        if stored.store.owned.get(d, 0) != mine:
            out[f"nodes of domain {d}"] = (mine, stored.store.owned.get(d, 0))
        watched = {
            side.book.path_of(T["watch.node"][w]) for w, on in enumerate(T["watch.on"]) if on and T["watch.by"][w] == d
        }
        has = {side.path(d, raw) for raw, _ in c.watches if raw[0] != "@"} if c is not None else set()
        if watched != has:
            out[f"watches[{d}]"] = (sorted(watched), sorted(has))


__all__ = ["compare"]

"""Small worlds for the examples: the number of elements of each sort, and the initial state.

Each is (nearly) the smallest that has all attacks of `attacks.py` and in which every step is possible. Relations that no
step writes (orders, circles, quorums) are given here by name; `tests/test_examples.py` checks that `init` and axioms hold.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

Facts = dict[str, str]


@dataclass(frozen=True)
class Small:
    """Sizes by sort, elements of constants, and the places of the initial state whose value is not the first of its sort."""

    sizes: dict[str, int]
    consts: dict[str, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)


def ascending(relation: str, names: list[str]) -> Facts:
    """The reflexive total order given by the sequence of names."""
    return {f"{relation}[{a}, {b}]": "true" for i, a in enumerate(names) for b in names[i:]}


def circle(relation: str, names: list[str]) -> Facts:
    """`relation[a, b, c]` for any three names in this cyclic order."""
    n = len(names)
    return {
        f"{relation}[{names[i]}, {names[(i + j) % n]}, {names[(i + k) % n]}]": "true"
        for i in range(n)
        for j, k in itertools.combinations(range(1, n), 2)
    }


def sets(relation: str, members: dict[str, list[str]]) -> Facts:
    """`relation[element, set]` for the members of each set."""
    return {f"{relation}[{element}, {name}]": "true" for name, elements in members.items() for element in elements}


def numbered(sort: str, count: int) -> list[str]:
    """The default names of a sort's elements, without constants."""
    return [f"{sort.lower()}{k}" for k in range(count)]


def _ring_leader(n: int) -> Small:
    numbers = numbered("Number", n)
    return Small(
        {"Node": n, "Number": n},
        {},
        {
            **circle("between", numbered("Node", n)),
            **ascending("at_most", numbers),
            **{f"number[node{k}]": numbers[n - 1 - k] for k in range(n)},
        },
    )


def _paxos(acceptors: int, rounds: int, quorums: dict[str, list[str]]) -> Small:
    names = ["none", *numbered("Round", rounds + 1)[1:]]
    return Small(
        {"Acceptor": acceptors, "Quorum": len(quorums), "Round": rounds + 1, "Value": 2},
        {"none": 0},
        {**ascending("at_most", names), **sets("member", quorums)},
    )


def _chord(n: int) -> Small:
    names = ["first", *numbered("Node", n)[1:]]
    return Small(
        {"Node": n},
        {"first": 0},
        {**circle("between", names), "alive[first]": "true", "successor[first]": "first", "backup[first]": "first"},
    )


def _broadcast(origin_faulty: bool) -> Small:
    """Two honest nodes and a faulty one; an honest one alone is a quorum and a witness set."""
    honest, liar = ("node1", "origin") if origin_faulty else ("origin", "node1")
    return Small(
        {"Node": 3, "Value": 2, "Quorum": 1, "Witness": 1},
        {"origin": 0},
        {f"faulty[{liar}]": "true", f"in_quorum[{honest}, quorum0]": "true", f"in_witness[{honest}, witness0]": "true"},
    )


def _pkvm(guests: int) -> Small:
    """Host, hypervisor, and guests of which the first is protected; one page."""
    return Small(
        {"Party": 2 + guests, "Page": 1}, {"host": 0, "hyp": 1}, {"page[host, page0]": "owned", "protected[party2]": "true"}
    )


def _leases(now: int) -> Small:
    """Two instants; all clocks show the same."""
    return Small(
        {"Client": 2, "Time": 2, "Number": 2},
        {},
        {
            **ascending("at_most", numbered("Time", 2)),
            **ascending("not_later", numbered("Number", 2)),
            **dict.fromkeys(("now", "clock[client0]", "clock[client1]"), f"time{now}"),
        },
    )


WORLDS: dict[str, Small] = {
    "lock_server": Small({"Node": 2}, {}, {"server_holds": "true"}),
    "two_phase_commit": Small({"Manager": 2}),
    "two_phase_commit/1": Small({"Manager": 1}),
    "decide_when_seen": Small({"Domain": 4}, {"a": 0, "b": 1, "c": 2, "d": 3}),
    "ring_leader": _ring_leader(3),
    "ring_leader/2": _ring_leader(2),
    "paxos": _paxos(1, 2, {"quorum0": ["acceptor0"]}),
    "paxos/2": _paxos(2, 2, {"quorum0": ["acceptor0", "acceptor1"], "quorum1": ["acceptor1"]}),
    "sharded_store": Small({"Node": 2, "Key": 1, "Value": 2, "Serial": 2}, {}, {"owns[node0, key0]": "true"}),
    "sharded_store/2": Small(
        {"Node": 1, "Key": 2, "Value": 1, "Serial": 1}, {}, {"owns[node0, key0]": "true", "owns[node0, key1]": "true"}
    ),
    "mesi": Small({"Cache": 2, "Line": 1, "Value": 2}),
    "mesi/3": Small({"Cache": 3, "Line": 1, "Value": 2}),
    "german": Small({"Client": 2, "Data": 2}),
    "peterson": Small({}),
    "reliable_broadcast/liar": _broadcast(origin_faulty=True),
    "reliable_broadcast/honest": _broadcast(origin_faulty=False),
    "chord_ring": _chord(4),
    "chord_ring/3": _chord(3),
    "capabilities": Small({"Subject": 2, "Object": 1, "Slot": 3}),
    "capabilities/2": Small({"Subject": 1, "Object": 2, "Slot": 2}),
    "protected_kvm": _pkvm(2),
    "protected_kvm/1": _pkvm(1),
    "hazard_pointers": Small(
        {"Thread": 2, "Node": 3}, {"nil": 0}, {"top": "nil", **{f"hazard[thread{k}]": "nil" for k in range(2)}}
    ),
    "leases": _leases(now=0),
    "leases/late": _leases(now=1),
    "snapshot": Small({"Node": 2, "Message": 1}),
    "counter": Small({}),
    "collector": Small({"Node": 2}, {}, {"free[node0]": "true", "free[node1]": "true"}),
    "upgradable_lock": Small({"Thread": 2, "Value": 2, "Call": 2}),
    "termination": Small(
        {"Node": 3},
        {"first": 0},
        {
            **ascending("at_most", ["first", "node1", "node2"]),
            "token.at": "first",
            "token.colour": "black",
            "active[first]": "true",
        },
    ),
    "termination/2": Small(
        {"Node": 2},
        {"first": 0},
        {**ascending("at_most", ["first", "node1"]), "token.at": "first", "token.colour": "black", "active[first]": "true"},
    ),
}

"""Readable names of the elements of a state: Dom0, DomB, `domU domain1`, `process space0`.

In the rules, a domain is an element of a sort; the state tells whether it is a service or a guest, and whether an address
space is a process. Names of systems without such state are unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

Facts = Mapping[str, Mapping[tuple[str, ...], str]]  # function -> arguments -> value, all as texts
SERVICES = {"dom0": "Dom0", "domb": "DomB"}


class Names:
    """The names of a state's elements; roles do not change in a trace, so the first state is enough."""

    def __init__(self, facts: Facts) -> None:
        self._service = facts.get("service", {})
        self._space_of = facts.get("space_of", {})
        self._processes = "process.phase" in facts

    def of(self, element: str) -> str:
        """The element with its role in front."""
        if (element,) in self._service:
            if self._service[(element,)] == "true":
                return SERVICES.get(element, f"service {element}")
            return f"domU {element}"
        if (element,) in self._space_of:
            return f"process {element}" if self.is_process(element) else f"address space {element}"
        return element

    def is_process(self, space: str) -> bool:
        """Is the address space a process of Dom0?"""
        return self._processes and self._space_of.get((space,)) == "dom0"


def domain_name(facts: Facts, element: str) -> str:
    """`domU domain1` for a guest; any other element unchanged."""
    return f"domU {element}" if facts.get("service", {}).get((element,)) == "false" else element


def actor(facts: Facts, kind: str, args: dict[str, str]) -> str:
    """The actor: a process, a domain, or the caller of the call that continues; "" for internal steps."""
    names = Names(facts)
    if kind == "internal":
        return ""
    for name in ("p", "caller", "owner", "space"):
        if name in args and names.of(args[name]) != args[name]:
            return f"{names.of(args[name])}: "
    call = (args.get("this", ""),)
    space, by = facts.get("issuer.space", {}).get(call, ""), facts.get("issuer.by", {}).get(call, "")
    who = space if names.is_process(space) else by
    return f"{names.of(who)}: " if who else ""

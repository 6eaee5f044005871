"""Names of the elements of a state, for people: Dom0, DomB, `domU domain1`, `process space0`.

The rules know a domain as an element of a sort; whether it is a service or a guest, and whether an address space is a
process, is said by the state. Names of systems that have no such state are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

Facts = Mapping[str, Mapping[tuple[str, ...], str]]  # function -> arguments -> value, all as text
SERVICES = {"dom0": "Dom0", "domb": "DomB"}


class Names:
    """The names of one state's elements; roles do not change in a trace, so its first state is enough."""

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
    """`domU domain1` for a guest, and any other element as it is."""
    return f"domU {element}" if facts.get("service", {}).get((element,)) == "false" else element

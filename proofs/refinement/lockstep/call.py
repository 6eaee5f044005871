"""A call in flight, its arguments, and the comparison of the two sides' codes.

A follower is a coroutine beside the call: it is sent each marker at which the implementation yields, and takes the rule
steps that have been performed since (follow_grants.py, follow_domains.py, ../dom0/follow.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Call
from bulkhead.proofs.refinement.lockstep.testbed import Guest

END = "end"
Follower = Generator[None, str, None]

CODE = {name: value for name, value in vars(abi).items() if name.startswith("GNTST_")}
NAME = {value: "GNTST_" + name[6:].lower() for name, value in CODE.items()}
GENERAL = "GNTST_general_error"


def status_name(value: int) -> str:
    """The rules' code of a GNTST status."""
    return OKAY if value == 0 else NAME.get(value, str(value))


def same(code: str, status: str) -> bool:
    """Are a rule's code and a status equal? A check with the code `GNTST_okay` counts as success."""
    return code == status or {code, status} == {OKAY, "GNTST_okay"}


@dataclass
class CallInFlight:
    """One hypercall between its start and its end."""

    text: str
    domid: int
    vcpu: int
    steps: Generator[str, None, int]
    number: int = 0  # among the calls of its machine
    rc: int = 0
    marker: str = ""
    guest: Guest | None = None
    call: Call | None = None  # as its caller said it
    read: Callable[[int, int], bytes] | None = None  # bytes of its arguments, if the caller is not a guest
    calls: list[int] = field(default_factory=list)
    moving: set[tuple[int, int]] = field(default_factory=set)
    follower: Follower | None = None
    watch: tuple[int, int] | None = None  # the entry whose pin counters are recorded before each step
    watched: int = 0
    moves: Callable[[], None] | None = None  # records the bytes that the next step will copy
    must_finish_first: bool = (
        False  # this step has failed in the rules, but not yet in the implementation: no other action may come between
    )
    seen: list[str] = field(default_factory=list)  # statuses, for the log


@dataclass(frozen=True)
class MapElement:
    slot: int
    flags: int
    ref: int
    dom: int
    addr: int


@dataclass(frozen=True)
class UnmapElement:
    slot: int
    addr: int
    bus: int
    handle: int


@dataclass(frozen=True)
class CopyElement:
    """A side is given by reference or by frame number; `dom` as in the call."""

    src_ref: bool
    src: int
    src_dom: int
    src_off: int
    dst_ref: bool
    dst: int
    dst_dom: int
    dst_off: int
    length: int

"""Real Xen as a target of calls: the same protocol that the implementation and the rules have (`Target`).

A `Call` is sent unchanged over the machine's connection: its operation, `by`, and its arguments, in the vocabulary of
recordings of real Xen, which the executor uses. A call that cannot be encoded or that the executor does not know (calls of
campaigns with processes by their space, `advance` of a call in flight) is answered `not available` and not made. Not here:
which calls are made (workload/), and pipelining for long scripts (play.py).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from bulkhead.proofs.refinement.calls import Answer, Call
from tests.xen import protocol
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed

NOT_AVAILABLE: Final = Answer("not available")


class RealXen:
    """One running machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def carry_out(self, call: Call) -> Answer:
        """Make a call and wait for its answer. RigFailed if the machine ends, or answers with garbage."""
        said = as_said(call)
        if said is None:
            return NOT_AVAILABLE
        self.machine.send([said.line()], said.line())
        line = self.machine.receive(None, said.line())
        try:
            return as_answered(protocol.parse(line, said).results)
        except protocol.UnknownCall:
            return NOT_AVAILABLE
        except ValueError as exc:
            raise RigFailed(f"garbage on the line: {exc}", self.machine.console(), said.line()) from exc


def as_said(call: Call) -> protocol.Call | None:
    """The executor's form of the call; None if it cannot be encoded: words are numbers and names without spaces."""
    words = {**({"by": call.by} if call.by else {}), **call.arguments}
    if not call.operation or any(
        not isinstance(value, int | str) or isinstance(value, bool) or value == "" or " " in str(value) or "\n" in str(value)
        for value in (call.operation, *words.values())
    ):
        return None
    return protocol.Call(call.operation, words)


def as_answered(results: Mapping[str, Any]) -> Answer:
    """The answer, in the names that all targets share. A crashed guest, or a call that never returned, has no
    code."""
    for why in protocol.WHY:
        if results.get(why):
            return Answer(why)
    code = results["r"]
    given = {name: value for name, value in results.items() if name != "r"} | ({"r": code} if code > 0 else {})
    return Answer("okay" if code >= 0 else errno.errorcode.get(-code, str(code)), given or None)

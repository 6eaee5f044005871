"""The target of the coverage-guided fuzzer, on inputs from Hypothesis: it runs, and detects a seeded fault."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.impl.xen import grant_map
from tests.fuzz.hypercalls import program


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=1500))
def test_any_program_is_answered(data: bytes) -> None:
    program(data)


def test_an_exception_in_a_handler_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise KeyError("seeded")

    monkeypatch.setattr(grant_map, "map_grant_ref", broken)
    from bulkhead.impl.xen import hypercall

    for name in dir(hypercall):
        if getattr(hypercall, name) is not broken and name == "map_grant_ref":
            monkeypatch.setattr(hypercall, name, broken)
    data = bytes([8]) + bytes(64) + bytes([0, 1]) + bytes(3)
    with pytest.raises(KeyError):
        program(data)

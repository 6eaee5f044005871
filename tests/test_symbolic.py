"""Symbolic runs of the implementation's handlers: they are proved, and a fault of one line in a handler is not."""

from __future__ import annotations

from typing import Any
from unittest import mock

import z3

from impl.xen import grant_entries, grant_map, lifecycle
from proofs.refinement.handlers import HandlerReport, prove_handlers, report_lines
from proofs.refinement.symbolic import WIDTH, Engine, Int
from proofs.refinement.symbolic_machine import Policy


def release() -> HandlerReport:
    return prove_handlers(["release_mapping"])[0]


def test_engine_takes_every_path_and_covers_all_inputs() -> None:
    engine = Engine()
    seen = []

    def body() -> None:
        x = Int(z3.BitVec("x", WIDTH))
        seen.append("low" if x < 3 else "top" if x & 1 else "even")

    assert len(list(engine.paths(body))) == 3
    assert sorted(seen) == ["even", "low", "top"]
    assert engine.covered()
    engine.ends.pop()
    assert not engine.covered()


def test_release_of_a_mapping_is_proved() -> None:
    report = release()
    assert report.proved, report.findings
    assert report.paths > 20
    assert report_lines([report])


def test_unsupported_operations_are_findings() -> None:
    with mock.patch.object(lifecycle, "GNTMAP_HOST_MAP", "2"):
        report = release()
    assert not report.proved and "Unsupported" in " ".join(report.findings)


def caught(module: Any, name: str, value: object, handler: str = "release_mapping") -> bool:
    """Is the fault noticed? The first finding is enough."""
    with mock.patch.object(module, name, value):
        return not prove_handlers([handler], stop_early=True)[0].proved


def test_wrong_pin_class_is_caught() -> None:
    assert caught(lifecycle, "PIN_DEVW", 1)


def test_kept_bits_are_caught() -> None:
    assert caught(grant_entries.GrantTable, "reduce_status", lambda *_: None)


def test_kept_type_reference_is_caught() -> None:
    assert caught(lifecycle, "put_page_type", lambda *_: None)


def test_pin_of_the_wrong_mode_is_caught() -> None:
    assert caught(lifecycle, "GNTMAP_READONLY", 8)


def test_map_without_policy_is_caught() -> None:
    assert caught(Policy, "grant_map", lambda *_: 0, "map_grant_ref")


def test_map_of_any_frame_is_caught() -> None:
    assert caught(grant_map, "get_paged_frame", lambda xen, gfn, domain: xen.frames.table.get(gfn), "map_grant_ref")


def test_map_with_the_wrong_pin_is_caught() -> None:
    assert caught(grant_map, "PIN_DEVR", 1, "map_grant_ref")

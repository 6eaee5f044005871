"""Attacks found in the rules steal data on the implementation before disaggregation, and fail after it."""

from __future__ import annotations

import pytest

from bulkhead.impl.xen import abi
from bulkhead.model import loader
from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.proofs.refinement.attacks import run_attack
from bulkhead.proofs.theorems.attack import find_attack


@pytest.fixture(scope="module")
def found() -> tuple[System, Trace]:
    system = loader.load("monolithic")
    trace = find_attack(system, "only_by_grant")
    assert trace is not None
    return system, trace


def test_monolithic_loses_a_page(found: tuple[System, Trace]) -> None:
    system, trace = found
    out = run_attack(trace, system, "monolithic")
    assert [code for _, code in out.answers] == [0] * len(trace.events)
    assert out.succeeded
    assert all(data.startswith(b"secret of frame") for data in out.stolen.values())


def test_disaggregated_keeps_it(found: tuple[System, Trace]) -> None:
    system, trace = found
    out = run_attack(trace, system, "disaggregated")
    assert out.answers == [("open_privcmd", abi.ENOENT), ("privcmd_mmapbatch", abi.EBADF)]
    assert not out.succeeded and not out.stolen
    assert out.raw == abi.EPERM

"""Attacks found in the rules really steal on the implementation before disaggregation, and fail after it."""

from __future__ import annotations

import pytest

from impl.xen import abi
from model import loader
from model.ir import System
from model.trace import Trace
from proofs.attack import find_attack
from proofs.refinement.attacks import run_attack


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

"""Faults that no campaign can notice: the unit test named in the catalogue notices each."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from bulkhead.proofs.faults import catalogue, catalogue_domb
from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.catalogue_tests import FAULTS
from bulkhead.proofs.faults.laying import hunt, installed

IMPL = Path(__file__).parent / "impl"
LIMIT = 60.0  # seconds
PASSED, FAILED = 0, 1  # of pytest


def _run(test: str, fault: Fault | None) -> None:
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(IMPL / test)]
    if fault is None:
        os._exit(int(pytest.main(arguments)))
    with installed(fault):
        os._exit(int(pytest.main(arguments)))


def _code(test: str, fault: Fault | None) -> int | None:
    """The exit code of the test with the fault, in a separate process; None if it does not end."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(test, fault))
    process.start()
    process.join(LIMIT)
    process.kill()
    code = process.exitcode
    process.join()
    return code


@pytest.mark.slow
@pytest.mark.parametrize("test", FAULTS)
def test_each_is_noticed_by_its_test(test: str) -> None:
    assert _code(test, None) == PASSED
    assert {fault.name: _code(test, fault) for fault in FAULTS[test]} == {fault.name: FAILED for fault in FAULTS[test]}


def test_names_are_of_no_other_catalogue() -> None:
    names = [f.name for faults in FAULTS.values() for f in faults]
    assert len(set(names)) == len(names)
    assert not set(names) & {*catalogue.BY_NAME, *catalogue_domb.BY_NAME}


def test_a_use_that_is_never_granted_needs_a_reason() -> None:
    """The rules allow a use of an entry to fail; it must not without five changes by its granter or a full counter."""
    report = hunt(catalogue.BY_NAME["status_v1_never"], 1, 2000)
    assert report.failure is not None

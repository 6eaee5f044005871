"""Marks slow tests: `make check` omits them, `make test` runs all. A slow file takes more than a few seconds.

After each test, the processes that it has left are ended.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import end_all

SLOW = frozenset(
    {
        "test_abstraction",
        "test_attack_unnamed",
        "test_attacks_on_impl",
        "test_benchmarks",
        "test_boot_claims",
        "test_certify",
        "test_claims",
        "test_cli",
        "test_domb_attacks",
        "test_domb_calls",
        "test_domb_episodes",
        "test_domb_handlers",
        "test_domb_refinement",
        "test_examples",
        "test_encoder_faults",
        "test_fuzz",
        "test_fuzz_forms",
        "test_jobs",
        "test_mutants",
        "test_oracle_fuzz",
        "test_needed_steps",
        "test_package",
        "test_refinement",
        "test_replay",
        "test_renaming",
        "test_results",
        "test_skipped",
        "test_stored_attacks",
        "test_symbolic",
        "test_systems",
        "test_bad_cases",
        "test_boot",
        "test_against_xenstored",
        "test_faults",
        "test_blind_spots",
        "test_calls",
        "test_channel",
        "test_tools",
        "test_builder",
        "test_fuzz_target",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """A test that fails half-way leaves no process, and so does not slow down all others."""
    yield
    end_all()

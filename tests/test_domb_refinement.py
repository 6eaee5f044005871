"""DomB in lockstep with its rules: campaigns find no mismatch, every kind of fault is noticed, oracle and parser agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bulkhead.impl.domb import elf
from bulkhead.impl.domb.layout import plan
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.faults.catalogue_domb import BY_NAME, FAULTS
from bulkhead.proofs.faults.laying import hunt, installed
from bulkhead.proofs.refinement.domb.campaign import campaign
from bulkhead.proofs.refinement.domb.coverage import CANNOT_HAPPEN, contradicted, pairs
from bulkhead.proofs.refinement.domb.exhaustive import SMALLEST, explore
from bulkhead.proofs.refinement.domb.files import BAD, GOOD, wanted
from bulkhead.proofs.refinement.domb.world import Size, rules_for

# One fault of each kind, found within a few moves.
QUICK = (
    "two_builds_at_once",
    "told_when_sent",
    "destroy_forgotten",
    "wrong_page_seeded",
    "mapping_kept",
    "half_built_guest_left",
    "page_not_cleared",
    "domb_port_for_another",
    "path_unchecked",
)


def test_a_campaign_finds_nothing_and_builds_guests() -> None:
    report = campaign(rules_for(Size()), 5, 1500)
    assert report.failure is None, report.failure.text()
    for pair in (
        "build_finish: okay",
        "build_seed: okay",
        "hang_up: okay",
        "take_create.act: EBUSY",
        "take_unpause.act: okay",
        "destroy_abandoned: okay",
        "take_destroy.forget: okay",
        "channel_withdraw: EBUSY",
    ):
        assert report.reached.get(pair), f"{pair} was not reached"
    assert contradicted(report.reached) == ()


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (campaign(rules_for(Size()), 7, 300) for _ in range(2))
    assert (first.rule_steps, first.reached) == (second.rule_steps, second.reached)


def test_every_reason_names_a_pair() -> None:
    assert set(CANNOT_HAPPEN) <= set(pairs(rules_for(Size())))


@pytest.mark.parametrize("name", QUICK)
def test_fault_is_noticed(name: str) -> None:
    report = hunt(BY_NAME[name], seed=1, limit=6000)
    assert report.failure is not None


def test_all_faults_apply() -> None:
    assert len(FAULTS) >= 40
    for fault in FAULTS:
        with installed(fault):
            pass


def test_the_oracle_and_the_parser_agree_on_the_kernels_they_both_know() -> None:
    """Written apart: a kernel that the campaigns hold for good can be loaded, and none of the bad ones."""
    for kernel in GOOD:
        plan(elf.parse(kernel), 4 * 4096, 64)
    for kernel in BAD:
        with pytest.raises(elf.ElfError):
            plan(elf.parse(kernel), 0, 64)


@pytest.mark.parametrize(
    ("body", "ok"),
    [
        (b"", False),
        (b"\0" * 10, True),
        (b"\0" * 11, False),
        (b"\0\0\0\0\1\0\0\0\0\0k", True),
        (b"\0\0\0\0\1\0\0\0\0\0\xff", False),
    ],
)
def test_what_a_request_says(body: bytes, ok: bool) -> None:
    assert wanted(body).ok is ok


def test_diff_of_one_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "diff.json"
    assert run(["diff", "--system", "disaggregated", "--ops", "400", "--seed", "2", "--json", str(out)]) == 0
    assert "DomB: 400 moves" in capsys.readouterr().out and json.loads(out.read_text())["mismatches"] == 0


def test_diff_says_where_domb_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with installed(BY_NAME["two_builds_at_once"]):
        code = run(["diff", "--system", "disaggregated", "--ops", "3000", "--seed", "1"])
    said = capsys.readouterr().out
    assert code == 1
    assert "MISMATCH" in said and "To reproduce: bulkhead diff --system disaggregated --seed 1" in said


def test_a_small_world_is_searched_and_says_how_far() -> None:
    result = explore(SMALLEST, depth=3, jobs=1)
    assert not result.failure, result.failure
    assert result.states >= 6 and not result.complete and "NOT all" in result.text()


def test_the_search_of_a_small_world_finds_a_fault() -> None:
    with installed(BY_NAME["pages_stay_shared"]):
        result = explore(SMALLEST, depth=3, jobs=1)
    assert result.failure and "connect" in result.failure

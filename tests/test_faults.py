"""Faults: the catalogue, faults in rules, and the command `bulkhead faults`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bulkhead.model import loader
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.faults import catalogue, catalogue_domb
from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.laying import hunt, installed

GT = (Path(__file__).parent / "benchmarks" / "gt.rules").read_text()

FAULTS = (*catalogue.FAULTS, *catalogue_domb.FAULTS)


def test_names_are_used_once() -> None:
    names = [f.name for f in FAULTS]
    assert len(set(names)) == len(names) and all(f.why and f.old != f.new for f in FAULTS)


def test_a_fault_that_finds_nothing_is_refused() -> None:
    with (
        pytest.raises(LookupError, match="does not stand in"),
        installed(Fault("odd", "grant_map:map_grant_ref", "no such text", "", "nothing")),
    ):
        pass


def test_a_harmless_change_is_not_noticed() -> None:
    same = Fault("same", "grant_map:map_grant_ref", "if not flags & 3:", "if not (flags & 3):", "nothing changes")
    assert hunt(same, limit=200).failure is None


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["faults", "--list", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["faults"]
    rules = {f["name"] for f in told if f["layer"] == "rules"}
    assert rules == {n for s in loader.shipped_systems() for n, f in loader.load(s).faults.items()}
    assert [f["name"] for f in told if f["layer"] == "implementation"] == [f.name for f in FAULTS]
    assert all(f["noticed"] is None and f["doc"] for f in told)


def test_faults_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The declared claims of a fault are compared with the proof; a fault that breaks something else fails the run."""
    path = tmp_path / "gt.rules"
    for breaks, code, says in (
        ("breaks umap_gr in map", 0, "map breaks umap_gr"),
        ("breaks owner_fn in map", 1, "keeps owner_fn with the fault, too"),
        ("", 1, "does not say which claim"),
    ):
        path.write_text(GT.replace("fault b1 ", f"fault b1 {breaks} "))
        assert run(["faults", str(path), "--only", "b1", "--jobs", "1"]) == code
        told = capsys.readouterr().out
        assert says in told and f"{1 - code} of 1 faults are noticed" in told


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--only", "no_scrap"], ["nonesuch"], ["hypervisor", "--only", "map_untyped"]):
        assert run(["faults", *words]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1

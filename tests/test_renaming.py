"""Names do not matter: with all names replaced, verdicts, lengths of attacks and exit codes are as they were.

Every shipped system and every example is renamed as a whole (`tests/renamed.py`): sorts, members, states, fields, operations
and their steps, locals, claims, faults, components.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.model.ir import System
from bulkhead.model.loader import load, shipped_systems
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.induction import Settings, prove
from tests.examples.attacks import ATTACKS, Attack
from tests.renamed import names_in, renamed, renaming, whole_text

EXAMPLES = [str(p) for p in sorted((Path(__file__).parent / "examples").glob("*.rules"))]
GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")
SETTINGS = Settings(jobs=1, cross_check=False, patient=False)


def other_names(system: str, folder: Path, seed: int = 1) -> tuple[str, dict[str, str]]:
    """The path of the renamed rules, and the new name of each name."""
    text = whole_text(system)
    new = renaming(text, seed)
    path = folder / "renamed.rules"
    path.write_text(renamed(text, new), encoding="utf-8")
    return str(path), new


def same_shape(system: System, other: System, new: dict[str, str]) -> None:
    """They have as many of everything, under the new names."""
    assert {new[n] for n in system.sorts if n != "Call"} == other.sorts.keys() - {"Call"}
    assert len(system.steps) == len(other.steps) and len(system.funcs) == len(other.funcs)
    assert {new[n] for n in system.invariants} == other.invariants.keys()
    assert {new[n]: v for n, v in system.expects.items()} == other.expects


@pytest.mark.parametrize("name", [*EXAMPLES, GT, "hypervisor"], ids=lambda n: Path(n).stem)
def test_no_verdict_depends_on_a_name(name: str, tmp_path: Path) -> None:
    path, new = other_names(name, tmp_path)
    assert not {n for n in names_in(whole_text(name)) if len(n) > 5} & set(names_in(Path(path).read_text()))
    system, other = load(name), load(path)
    same_shape(system, other, new)
    one, two = prove(system, SETTINGS), prove(other, SETTINGS)
    assert {new[n] for n in one.proved} == two.proved and {new[n] for n in one.standing} == two.standing


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in shipped_systems() if n != "hypervisor"])
def test_no_verdict_of_a_large_system_depends_on_a_name(name: str, tmp_path: Path) -> None:
    path, new = other_names(name, tmp_path)
    system, other = load(name), load(path)
    same_shape(system, other, new)
    wanted = [n for n, expected in system.expects.items() if expected == "proved"]
    assert {new[n] for n in wanted} <= prove(other, SETTINGS, only=[new[n] for n in wanted]).proved
    for claim in [n for n in system.expects if n not in wanted][:2]:
        found, again = find_attack(system, claim), find_attack(other, new[claim])
        assert found is not None and again is not None and len(found.events) == len(again.events), claim


# The attack of each example that takes fewest steps; a search for one of many steps takes long.
SHORTEST = [
    min((a for a in ATTACKS if a.system == name), key=lambda a: a.steps) for name in sorted({a.system for a in ATTACKS})
]


@pytest.mark.slow
@pytest.mark.parametrize("attack", SHORTEST, ids=lambda a: a.system)
def test_no_length_of_an_attack_depends_on_a_name(attack: Attack, tmp_path: Path) -> None:
    name = next(e for e in EXAMPLES if Path(e).stem == attack.system)
    path, new = other_names(name, tmp_path)
    faults = (attack.fault,) if attack.fault else ()
    again = tuple(new[f] for f in faults)
    found, other = (
        find_attack(load(name, faults), attack.claim, faults),
        find_attack(load(path, again), new[attack.claim], again),
    )
    assert found is not None and other is not None
    assert len(found.events) == len(other.events) == attack.steps


def test_no_exit_code_depends_on_a_name(tmp_path: Path) -> None:
    """Of proofs, attacks and explorations."""
    path, new = other_names(GT, tmp_path)
    out = ["--out", str(tmp_path / "out")]
    for words, code in (
        (["prove", "--jobs", "1", *out], 0),
        (["prove", "--jobs", "1", "--fault", "b1", *out], 1),
        (["attack", "cover", "--fault", "b2", *out], 0),
        (["explore", "--depth", "1"], 1),  # not all states were seen
    ):
        for file, names in ((GT, {}), (path, new)):
            assert run([words[0], file, *(names.get(w, w) for w in words[1:])]) == code, (words, file)

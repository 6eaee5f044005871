"""Spin and TLC on models written by hand beside the rules: as many states as `explore` sees, and attacks of the same length.

Nothing of a model is made from the rules, so a fault in how rules are read, searched or counted shows as another number.
Each test skips without the tool: Spin and gcc are Debian's, TLC is a jar that BULKHEAD_TLC names.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from bulkhead.model.loader import load
from bulkhead.proofs.theorems.explore import Exploration, Limits, explore
from tests.benchmarks import tlc as grants
from tests.benchmarks.run import GT
from tests.examples.attacks import ATTACKS, HERE, Attack
from tests.examples.outside import SPIN, TLC, Model
from tests.oracles import spin, tlc

named = partial(pytest.mark.parametrize, ids=lambda value: value.name if isinstance(value, Model) else value)


def _faults(models: tuple[Model, ...]) -> list[tuple[Model, str, str]]:
    """Each fault of a model, with each claim that it violates."""
    return [(m, a.fault, a.claim) for m in models for a in ATTACKS if _has(m, a)]


def _has(model: Model, attack: Attack) -> bool:
    return attack.system == model.system and attack.fault in model.faults and attack.claim in model.claims


def _explored(model: Model, folder: Path, fault: str = "", claim: str = "") -> Exploration:
    """All states of the rules in the world of the model, or the violations of a claim."""
    system = model.rules(folder, fault)
    claims = [c for n, c in system.claims().items() if n == claim or (not claim and n in model.claims)]
    return explore(system, {**dict.fromkeys(system.sorts, 1), **model.sizes}, claims, Limits(whole=not claim, renamed=True))


def _steps(model: Model, folder: Path, fault: str, claim: str) -> int:
    """The length of a shortest attack from the model's beginning; the table's, from any beginning, is not longer."""
    found = _explored(model, folder, fault, claim)
    (least,) = {a.steps for a in ATTACKS if (a.system, a.fault, a.claim) == (model.system, fault, claim)}
    assert least <= len(found.attacks[claim].events)
    return len(found.attacks[claim].events)


def _spun(model: Model, *more: str) -> spin.Stored:
    reason = spin.find()
    if reason:
        pytest.skip(reason)
    return spin.searched(model.file.read_text(encoding="ascii"), *model.options, *more)


def _searched(model: Model, fault: str, claims: tuple[str, ...]) -> tlc.Searched:
    jar, reason = tlc.find()
    if reason:
        pytest.skip(reason)
    kinds = {name: claim.kind for name, claim in load(str(HERE / f"{model.system}.rules")).claims().items()}
    constants = dict(option.split(" = ", 1) for option in model.options)
    return tlc.searched(
        jar,
        model.file,
        {**constants, "Fault": f'"{fault}"'},
        [c for c in claims if kinds[c] != "transition"],
        [c for c in claims if kinds[c] == "transition"],
    )


@named("model", SPIN)
def test_spin_sees_as_many_states(tmp_path: Path, model: Model) -> None:
    """As many states as the rules have, and no violation."""
    stored, found = _spun(model), _explored(model, tmp_path)
    assert found.complete and found.initial == 1 and not found.attacks and found.hidden < 1e-6
    assert (stored.states, stored.steps) == (found.states, 0)


@named(("model", "fault", "claim"), _faults(SPIN))
def test_spin_sees_attacks_of_the_same_length(tmp_path: Path, model: Model, fault: str, claim: str) -> None:
    """With a fault in the model by hand, and in the rules."""
    asked = (claim.upper(),) if len(model.claims) > 1 else ()
    assert _spun(model, fault.upper(), *asked).steps == _steps(model, tmp_path, fault, claim)


@named("model", TLC)
def test_tlc_sees_as_many_states(tmp_path: Path, model: Model) -> None:
    """As many states as the rules have, as many rounds until there are no more, and no violation."""
    searched, found = _searched(model, "none", model.claims), _explored(model, tmp_path)
    assert found.complete and found.initial == 1 and not found.attacks and found.hidden < 1e-6
    assert (searched.states, searched.rounds, searched.violated) == (found.states, found.depth, "")


@named(("model", "fault", "claim"), _faults(TLC))
def test_tlc_sees_attacks_of_the_same_length(tmp_path: Path, model: Model, fault: str, claim: str) -> None:
    """With a fault in the module by hand, and in the rules."""
    searched = _searched(model, fault, (claim,))
    assert (searched.violated, searched.steps) == (claim, _steps(model, tmp_path, fault, claim))


def _grants(fault: str, domains: int, frames: int, refs: int) -> tuple[tlc.Searched, Exploration]:
    """The small grant rules, in both."""
    if not grants.available():
        pytest.skip(tlc.find()[1])
    system = load(GT, [] if fault == "none" else [fault])
    sizes = {**dict.fromkeys(system.sorts, 1), "Domain": domains, "Frame": frames, "Ref": refs}
    found = explore(system, sizes, list(system.theorems.values()), Limits(whole=fault == "none", renamed=True))
    return grants.grants(domains, frames, refs, 1, fault), found


@pytest.mark.parametrize(("domains", "frames", "refs"), [(2, 2, 1), (3, 2, 1), (2, 1, 2)])
def test_tlc_sees_as_many_states_of_the_grant_rules(domains: int, frames: int, refs: int) -> None:
    """As many states and rounds, and no violation."""
    searched, found = _grants("none", domains, frames, refs)
    assert found.complete and not found.attacks
    assert (searched.states, searched.rounds, searched.violated) == (found.states, found.depth, "")


@pytest.mark.parametrize("fault", ["b1", "b2"])
def test_tlc_sees_as_short_attacks_on_the_grant_rules(fault: str) -> None:
    """The two faults of the rules."""
    searched, found = _grants(fault, 3, 2, 1)
    assert (searched.violated, searched.steps) == ("cover", len(found.attacks["cover"].events))

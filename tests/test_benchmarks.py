"""The benchmarks work: the model written by hand follows the rules, and measurements are distinguished from targets."""

from __future__ import annotations

import ast
import inspect
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.world import World
from bulkhead.proofs.theorems.explore import Limits, explore
from bulkhead.proofs.theorems.induction import Settings, prove
from tests.benchmarks import run, spin
from tests.benchmarks.by_hand import HandWritten, walk
from tests.benchmarks.copies import copies
from tests.benchmarks.run import GT, GT_SIZES, Row, hand_steps


def test_the_model_by_hand_does_what_the_rules_say() -> None:
    machine = ExecutableModel(loader.load(GT), World(GT_SIZES, {"root": 0}))
    rng = random.Random(7)
    fired = set()
    for n in range(40_000):
        if n % 400 == 0:
            hand, state = HandWritten(), machine.empty_state()
            state[list(machine.system.funcs).index("domain.alive")][0] = 1
        operation, sizes = rng.choice(hand.operations)
        values = [rng.randrange(n) for n in sizes]
        label = operation.__name__
        names = [p.name for p in machine.transitions[label].params]
        did = operation(*values)
        assert did == machine.fire(state, label, dict(zip(names, values, strict=True))), (label, values)
        fired |= {label} if did else set()
    assert fired == {t.label for s in machine.system.steps for t in s.transitions()}


def test_measurements_know_their_targets() -> None:
    assert Row("g", "w", 1.0, "s", 2.0).met and not Row("g", "w", 3.0, "s", 2.0).met
    assert Row("g", "w", 3.0, "steps/s", 2.0, True).met and Row("g", "w", 3.0, "s").met is None
    assert walk(1, 1000) > 0 and hand_steps(1000) > 0


def test_a_hundred_copies_prove(tmp_path: Path) -> None:
    """A system of 1300 operations ends in a verdict: nothing recurses once for each operation, and nothing is cut off."""
    file = tmp_path / "copies.rules"
    file.write_text(copies(100), encoding="utf-8")
    command = [sys.executable, "-m", "bulkhead.proofs.cli", "prove", str(file), "--jobs", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of 1300 transitions 1300 reached" in done.stdout and "All verdicts are as expected" in done.stdout


def test_a_proof_grows_as_its_system_does(tmp_path: Path) -> None:
    """Twice as many copies are twice as many queries, and take twice the processor's time and not four times it."""
    spent = []
    for count in (20, 40):
        file = tmp_path / f"copies{count}.rules"
        file.write_text(copies(count), encoding="utf-8")
        begun = time.process_time()
        proof = prove(loader.load(str(file)), Settings(jobs=1, cross_check=False))
        spent.append((len(proof.results), time.process_time() - begun))
    (few, short), (many, long) = spent
    assert many == 2 * few and long < 3 * short, spent


@pytest.mark.parametrize(("domains", "frames", "refs"), [(2, 2, 1), (3, 2, 1), (2, 2, 2)])
def test_spin_sees_as_many_states_of_the_grant_rules(domains: int, frames: int, refs: int) -> None:
    """Written by hand for Spin, the small grant rules have as many states as the search of the rules sees."""
    if not spin.available():
        pytest.skip("needs Spin and gcc (apt-get install spin gcc)")
    system = loader.load(GT)
    sizes = {**dict.fromkeys(system.sorts, 1), "Domain": domains, "Frame": frames, "Ref": refs}
    found = explore(system, sizes, list(system.theorems.values()), Limits(whole=True, renamed=True))
    assert found.complete and not found.attacks and found.states == spin.grants(domains, frames, refs, 1).states


def test_every_group_of_rows_is_measured() -> None:
    """A group that `main` does not ask for is never in the table."""
    tree = ast.parse(inspect.getsource(run))
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    groups = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.endswith("_rows")}
    assert len(groups) > 4 and groups <= {node.id for node in ast.walk(main) if isinstance(node, ast.Name)}

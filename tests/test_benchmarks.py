"""The benchmarks work: the model written by hand follows the rules, and measurements are told apart from their targets."""

from __future__ import annotations

import random

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.world import World
from tests.benchmarks.by_hand import HandWritten, walk
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

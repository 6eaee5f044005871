"""The language and its reference: every example of `spec/README.md` is checked, and together they use all of the grammar.

The blocks of one chapter make one rules file. What the reference says of the meaning of rules (simultaneous assignment,
order of checks, undo, batches, ...) is tried here on the executable model, and its claims on expected verdicts are proved.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lark import Lark

from model import loader
from model.ir import System
from model.machine import Machine
from model.parser import GRAMMAR
from model.walk import Caller, Outcome, caller_of, walk
from model.world import State, World
from proofs.attack import find_attack
from proofs.induction import Settings, prove

REFERENCE = Path(__file__).parent.parent / "spec" / "README.md"


def chapters() -> dict[str, str]:
    """The rules of each chapter of the reference, by its title."""
    out = {}
    for part in re.split(r"^## ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```rules\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            out[part.split("\n")[0]] = "\n".join(blocks)
    return out


CHAPTERS = chapters()


def library(title: str, folder: Path) -> loader.Library:
    path = folder / "example.rules"
    path.write_text(CHAPTERS[title])
    return loader.load_library([path])


# The examples.


@pytest.mark.parametrize("title", CHAPTERS)
def test_examples_are_good(title: str, tmp_path: Path) -> None:
    path = tmp_path / "example.rules"
    path.write_text(CHAPTERS[title])
    assert loader.check([path]) == []


@pytest.mark.parametrize("title", CHAPTERS)
def test_expected_verdicts(title: str, tmp_path: Path) -> None:
    """What a system of the reference expects is so."""
    lib = library(title, tmp_path)
    for name, home in lib.home_of_system.items():
        if home != str(tmp_path / "example.rules"):
            continue
        system = loader.build(lib, name, ())
        proof = prove(system, Settings(jobs=1, cross_check=False))
        for claim, verdict in system.expects.items():
            assert (claim in proof.proved) == (verdict == "proved"), (name, claim)
            if verdict == "refuted":
                assert find_attack(system, claim, ()) is not None


@pytest.mark.parametrize("component", ["values", "order"])
def test_invariants_of_examples(component: str, tmp_path: Path) -> None:
    """Invariants of components that no system uses hold, too."""
    title = next(t for t, text in CHAPTERS.items() if f"\ncomponent {component} " in f"\n{text}")
    system = example(component, tmp_path)
    assert system.invariants and title
    proof = prove(system, Settings(jobs=1, cross_check=False))
    assert proof.standing >= set(system.invariants)


def used_rules(texts: list[str]) -> tuple[set[Any], set[Any]]:
    """All rules of the compiled grammar (every alternative is one), and those that parsing the texts used."""
    lark = Lark(GRAMMAR.read_text(), parser="lalr", maybe_placeholders=True)
    callbacks = lark.parser.parser.parser.callbacks
    used: set[Any] = set()

    def noted(rule: Any, made: Any) -> Any:
        def call(children: Any) -> Any:
            used.add(rule)
            return made(children)
        return call

    for rule, made in list(callbacks.items()):
        callbacks[rule] = noted(rule, made)
    for text in texts:
        lark.parse(text)
    return set(lark.rules), used


def test_reference_uses_all_of_the_grammar() -> None:
    """Every alternative of every rule, so also every optional part once present and once left out."""
    rules, used = used_rules(list(CHAPTERS.values()))
    unused = sorted(f"{r.origin.name}{f' -> {r.alias}' if r.alias else ''}: {' '.join(s.name for s in r.expansion)}"
                    for r in rules - used if not r.origin.name.startswith(("__", "$")))
    assert unused == []


def example(component: str, folder: Path) -> System:
    """The component of the reference as a system of its own."""
    title = next(t for t, text in CHAPTERS.items() if f"\ncomponent {component} " in f"\n{text}")
    lib = library(title, folder)
    lib.systems[loader.TRIAL] = loader._trial(lib, [component])
    return loader.build(lib, loader.TRIAL, ())

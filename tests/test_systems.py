"""The shipped systems: expected verdicts are found, and every fault is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, Claim, Quant, Transition, Use, Var, conj, neg
from bulkhead.model.trace import TraceError, load_jsonl, replay, to_jsonl
from bulkhead.proofs.faults.of_rules import Correct, notice
from bulkhead.proofs.faults.of_rules import correct as correct_rules
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.report.explain_cti import describe
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.decide import run_blocks
from bulkhead.proofs.theorems.frame_rule import Frame
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.initial_states import nothing
from bulkhead.proofs.theorems.queries import QueryMaker, name_of
from bulkhead.proofs.theorems.scope import first_scope

GT = Path(__file__).parent / "benchmarks" / "gt.rules"


def test_shipped_rules_stay_in_the_decidable_fragment() -> None:
    for name in loader.shipped_systems():
        assert loader.load(name).warnings == ()


def test_monolithic_falls_in_two_steps_and_the_trace_replays(tmp_path: Path) -> None:
    system = loader.load("monolithic")
    trace = find_attack(system, "only_by_grant")
    assert trace is not None
    assert [e.label for e in trace.events] == ["open_privcmd", "privcmd_mmapbatch"]
    machine = ExecutableModel(system, trace.world)
    file = tmp_path / "trace.jsonl"
    file.write_text(to_jsonl(trace, system, machine))
    again = load_jsonl(file, system)
    assert replay(again, machine) == replay(trace, machine)


def test_there_is_no_such_attack_on_disaggregated() -> None:
    assert find_attack(loader.load("disaggregated"), "only_by_grant", max_depth=1) is None


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "not a trace"),
        ("{", "not a line of JSON"),
        ("[1]\n", "JSON object"),
        ('{"format": "bulkhead-trace/1", "system": "gt"}\n{}\n', "malformed trace"),
    ],
)
def test_malformed_traces_are_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError, match=told):
        load_jsonl(file, loader.load(str(GT)))


def test_gt_faults_have_attacks_of_known_length() -> None:
    """Five steps for the dropped grantee check, the same as other tools; four through the builder's foreign mapping."""
    for fault, steps in (("b1", 5), ("b2", 4)):
        trace = find_attack(loader.load(str(GT), [fault]), "cover", (fault,))
        assert trace is not None and len(trace.events) == steps
        assert trace == find_attack(loader.load(str(GT), [fault]), "cover", (fault,)), "the search is deterministic"


FAULTS = loader.load("disaggregated").faults


@pytest.fixture(scope="module")
def correct() -> Correct:
    return correct_rules("disaggregated")


def test_disaggregated_is_proved(correct: Correct) -> None:
    proof = correct.proof
    assert proof.proved == set(proof.system.claims())
    assert set(proof.system.invariants) <= proof.standing


def test_shipped_faults_say_what_they_break() -> None:
    """All faults but one, which only makes a refuted claim easier to attack (see the next test)."""
    known = {n: f for s in loader.shipped_systems() for n, f in loader.load(s).faults.items()}
    assert [n for n, f in known.items() if not f.breaks] == ["privcmd_for_all"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_breaks_what_stands_beside_it(fault: str, correct: Correct) -> None:
    """The query of the changed step is no longer refuted, and a counterexample to induction shows the broken claim."""
    found = notice("disaggregated", fault, correct)
    assert found.missed == () and len(found.found) == len(found.fault.breaks) > 0
    for cti in found.found:
        assert found.fault.step in describe(cti, loader.load("disaggregated", [fault]))


def test_a_fault_that_breaks_something_else_is_told(correct: Correct) -> None:
    """A harmless claim, an unknown claim, and none at all: each is reported, and none counts as noticed."""
    fault = FAULTS["no_grantee_check"]
    for changed, says in (
        (replace(fault, breaks=("free_is_clean",)), "shows that map_grant_ref keeps free_is_clean"),
        (replace(fault, breaks=("nonesuch",)), "claims nothing named nonesuch"),
        (replace(fault, step="nonesuch"), "has no step nonesuch"),
        (replace(fault, breaks=()), "does not say"),
    ):
        system = loader.load("disaggregated", [fault.name])
        with mock.patch.object(loader, "load", return_value=replace(system, faults={fault.name: changed})):
            found = notice("disaggregated", fault.name, correct)
        assert not found.found and len(found.missed) == 1 and says in found.missed[0]


def test_a_fault_of_the_privileged_device_is_noticed() -> None:
    """Any process may open privcmd: no proved claim of `monolithic` depends on root."""
    assert find_attack(loader.load("monolithic", ["privcmd_for_all"]), "only_by_grant", ("privcmd_for_all",)) is not None


def test_a_dropped_check_gives_a_shortest_attack() -> None:
    trace = find_attack(loader.load("hypervisor", ["no_grantee_check"]), "no_access_without_title", ("no_grantee_check",))
    assert trace is not None
    assert [e.label for e in trace.events] == ["write_entry", "map_grant_ref", "map_grant_ref.insert"]
    assert trace.excluded == 2


def test_tools_can_do_their_work_without_privilege() -> None:
    """The rules are not vacuously safe: a process of Dom0 can map a guest's page by grant."""
    system = loader.load("disaggregated")
    p, t = Var("p", "Space"), Var("t", "Translation")
    owner = App("frame.owner", (App("translation.frame", (t,), "Frame"),), "Domain")
    wanted = Quant(
        "exists",
        (p, t),
        conj(
            [Use("reaches", (p, t), "bool"), App("translation.present", (t,), "bool"), neg(App("service", (owner,), "bool"))]
        ),
    )
    search = Search(system, replace(nothing(system), body=neg(wanted)), first_scope(system), 30.0)
    every = search.transitions
    for label in (
        "write_entry",
        "open_gntdev",
        "gntdev_map_grant_ref",
        "gntdev_mmap",
        "gntdev_mmap.map",
        "gntdev_mmap.insert",
    ):
        search.transitions = [t for t in every if t.label == label]
        search.deepen()
    assert search.violated()


# The frame rule.


class Others:
    """The inverse of the frame rule: asks exactly the queries that it skips."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def keeps(self, transition: Transition, claim: Claim) -> bool:
        return not self.frame.keeps(transition, claim)


@pytest.mark.parametrize("name", ["monolithic", "disaggregated"])
def test_both_solvers_refute_what_is_left_out_as_kept(name: str) -> None:
    maker = QueryMaker(loader.load(name))
    maker.frame = Others(maker.frame)  # type: ignore[assignment]
    claims = [*maker.system.invariants.values(), *maker.system.theorems.values()]
    blocks = [maker.step(t, claims, {name_of(c) for c in claims}) for t in maker.transitions]
    with Workers(2) as pool:
        results = run_blocks(maker.formulas.prelude, [b for b in blocks if b is not None], Settings(), pool)
    assert len(results) > 500
    assert all((r.verdict, r.second) == ("unsat", "unsat") for r in results)


KEPT = """component c "What a step assigns, and what claims look at."
sort Thing "a thing"
enum Mode = red | green | blue
const one: Thing
const two: Thing
state mode[Thing]: Mode
state on[Thing]: bool
state chosen: Thing
init chosen = one
init forall x: Thing. mode[x] = red and not on[x]

hypercall go(x: Thing)
    set mode[x] = green
    set on[x] = true
    set chosen = two

define dark(x: Thing) = mode[x] = blue or not on[x]

theorem affirmed_and_gone forall x: Thing. mode[x] = red
theorem denied_and_made forall x: Thing. mode[x] != green
theorem denied_truth forall x: Thing. not on[x]
theorem both_ways forall x: Thing. mode[x] = red or on[x]
theorem perhaps_one chosen != one implies chosen = two
theorem by_definition forall x: Thing. dark(x)
theorem compared forall x: Thing, y: Thing. mode[x] = mode[y]
theorem inside mode[chosen] = red
theorem iff forall x: Thing. on[x] = (mode[x] = green)
theorem denied_and_gone forall x: Thing. mode[x] = red implies on[x] or not on[x]
theorem affirmed_and_made forall x: Thing. on[x] or mode[x] != blue
theorem kept_by_definition forall x: Thing. mode[x] = blue implies not dark(x) or mode[x] != red

system c "All."
    uses c
    expect refuted affirmed_and_gone
    expect refuted denied_and_made
    expect refuted denied_truth
    expect proved both_ways
    expect proved perhaps_one
    expect refuted by_definition
    expect refuted compared
    expect refuted inside
    expect proved iff
    expect proved denied_and_gone
    expect proved affirmed_and_made
    expect proved kept_by_definition
"""


def test_a_frame_sees_what_an_assignment_may_do(tmp_path: Path) -> None:
    """Only claims that certainly stay true are skipped: constants may name one element, and definitions are expanded."""
    path = tmp_path / "c.rules"
    path.write_text(KEPT)
    maker = QueryMaker(loader.load(str(path)))
    (go,) = [t for t in maker.transitions if not t.code]
    kept = {n for n, c in maker.system.theorems.items() if maker.frame.keeps(go, c)}
    assert kept == {"affirmed_and_made", "kept_by_definition"}
    proof = prove(maker.system, Settings(jobs=1))
    assert proof.proved == {n for n, expected in maker.system.expects.items() if expected == "proved"}


def test_one_theorem_alone_is_proved_with_the_others_beside_it() -> None:
    system = loader.load("disaggregated")
    proof = prove(system, Settings(jobs=1, cross_check=False), only=["exit_takes_all"])
    assert "exit_takes_all" in proof.proved and not proof.first_failing

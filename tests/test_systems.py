"""The shipped systems: what they promise is proved, what they expect to fall falls, and every fault is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model import loader
from model.ir import App, Claim, Quant, Transition, Use, Var, conj, neg
from model.machine import Machine
from model.trace import TraceError, load_jsonl, replay, to_jsonl
from proofs.attack import find_attack
from proofs.bounded import Search, default_scope
from proofs.cti import counterexample, describe
from proofs.decide import make_pool, run_blocks
from proofs.frame import Frame
from proofs.induction import Proof, Settings, prove
from proofs.queries import QueryMaker, name_of
from proofs.reuse import Meanings, Refuted, split
from proofs.starts import nothing

GT = Path(__file__).parent / "benchmarks" / "gt.rules"


def test_shipped_rules_stay_in_the_decidable_fragment() -> None:
    for name in loader.shipped_systems():
        assert loader.load(name).warnings == ()


def test_monolithic_falls_in_two_steps_and_the_trace_replays(tmp_path: Path) -> None:
    system = loader.load("monolithic")
    trace = find_attack(system, "only_by_grant")
    assert trace is not None
    assert [e.label for e in trace.events] == ["open_privcmd", "privcmd_mmapbatch"]
    machine = Machine(system, trace.world)
    file = tmp_path / "trace.jsonl"
    file.write_text(to_jsonl(trace, system, machine))
    again = load_jsonl(file, system)
    assert replay(again, machine) == replay(trace, machine)


def test_there_is_no_such_attack_on_disaggregated() -> None:
    assert find_attack(loader.load("disaggregated"), "only_by_grant", max_depth=1) is None


@pytest.mark.parametrize("text, told", [("", "not a trace"), ("{", "not a line of JSON"), ("[1]\n", "JSON object"),
                                        ('{"format": "bulkhead-trace/1", "system": "gt"}\n{}\n', "malformed trace")])
def test_malformed_traces_are_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError, match=told):
        load_jsonl(file, loader.load(str(GT)))


def test_gt_faults_have_attacks_of_known_length() -> None:
    """Five steps for the dropped grantee check, as other tools found, too; four through the builder's foreign map."""
    for fault, steps in (("b1", 5), ("b2", 4)):
        trace = find_attack(loader.load(str(GT), [fault]), "cover", (fault,))
        assert trace is not None and len(trace.events) == steps
        assert trace == find_attack(loader.load(str(GT), [fault]), "cover", (fault,)), "the search is deterministic"


# Each fault changes one rule. The step and the claim say where the proof breaks first; others may break beside it.
NOTICED = {
    "no_scrub": ("free_page", "free_is_clean"),
    "foreign_for_all": ("mmu_update_map", "foreign_by_privilege"),
    "foreign_frame": ("mmu_update_map", "own_is_own"),
    "free_too_early": ("free_page", "held_pages_stay"),
    "no_grantee_check": ("map_grant_ref", "hold_is_offered"),
    "no_active_grantee_check": ("map_grant_ref", "hold_is_active"),
    "no_kind_check": ("map_grant_ref", "hold_is_offered"),
    "no_readonly_check": ("map_grant_ref", "hold_is_offered_rw"),
    "part_mapped": ("map_grant_ref", "whole_in_flight"),
    "active_part_mapped": ("map_grant_ref", "whole_in_flight"),
    "swap_in_use": ("swap_grant_ref", "active_is_offered_rw"),
    "no_owner_check": ("map_grant_ref", "pins_hold_pages"),
    "handle_reused": ("map_grant_ref", "taken_is_not_live"),
    "no_mapper_check": ("unmap_grant_ref", "hold_is_active"),
    "pin_dropped_early": ("unmap_grant_ref", "unmap_in_flight"),
    "no_flush": ("unmap_grant_ref.flush", "grant_translation"),
    "bits_cleared_too_soon": ("unmap_grant_ref.complete", "reading_while_pinned"),
    "frame_of_peer": ("copy.claim_source", "held_has_title"),
    "copy_without_grantee": ("copy.claim_source", "hold_is_offered"),
    "copy_upgrade": ("copy.claim_dest", "hold_is_offered_rw"),
    "transfer_referenced": ("transfer", "free_is_unreachable"),
    "transfer_flushes_giver": ("transfer.flush", "carried_is_flushed"),
    "transfer_unasked": ("transfer.assign", "pages_go_where_asked"),
    "status_freed_mapped": ("set_version_1", "free_is_unreachable"),
    "status_lookup_unheld": ("map_status_frame", "status_lookup_holds"),
    "bind_uninvited": ("evtchn_bind_interdomain", "events_have_two_ends"),
    "ports_left_open": ("evtchn_destroy", "events_have_two_ends"),
    "half_closed": ("evtchn_close", "events_have_two_ends"),
    "evtchn_kept_bound": ("evtchn_unbind", "ports_go_with_files"),
    "gntdev_any_descriptor": ("gntdev_mmap", "gntdev_in_flight"),
    "gntdev_any_file": ("gntdev_mmap", "gntdev_in_flight"),
    "maps_outlive_file": ("release_file", "listed_is_registered"),
    "ring_not_cleared": ("channel_share", "rings_show_no_guest"),
    "path_not_confined": ("proxy_open.open", "files_stay_in_export"),
    "path_checked_in_the_ring": ("proxy_open.open", "files_stay_in_export"),
    "buffer_not_cleared": ("build_give_up", "buffers_are_clean"),
    "check_skipped": ("build_check", "checked_bytes_stay"),
    "created_before_checked": ("build_create", "checked_before_created"),
    "loaded_from_the_ring": ("build_load", "loaded_was_checked"),
    "undo_with_mappings": ("build_undo", "builder_maps_by_right"),
    "seed_foreign_page": ("build_seed", "seeded_pages_are_the_guests_own"),
    "seed_loaded_page": ("build_seed", "seeded_pages_hold_nothing_loaded"),
    "seed_for_another": ("build_seed", "seeded_for_dom0"),
    "seeded_in_vain": ("build_seed", "seeded_for_dom0"),
    "port_for_another": ("build_port", "ports_wait_for_dom0"),
    "seal_with_mappings": ("build_seal", "builder_maps_by_right"),
    "seal_with_special_pages": ("build_seal", "special_is_the_jobs"),
    "right_is_kept": ("build_seal", "right_ends_with_the_build"),
    "checked_in_the_ring": ("take_destroy.act", "only_built_guests_end"),
    "rights_by_id": ("take_pause.act", "only_built_guests_stand_still"),
    "untold_started": ("take_unpause.act", "only_told_guests_run"),
    "xenstore_rights_by_id": ("xs_read", "xenstore_by_permission"),
    "xenstore_owner_by_id": ("xs_set_perms", "permissions_were_given"),
}


@pytest.fixture(scope="module")
def correct() -> tuple[Proof, Refuted]:
    """The proof of the correct rules, and what it refuted: a fault leaves most of that as it is."""
    refuted = Refuted()
    return prove(loader.load("disaggregated"), Settings(jobs=1, cross_check=False), refuted=refuted), refuted


def test_disaggregated_is_proved(correct: tuple[Proof, Refuted]) -> None:
    proof, _ = correct
    assert proof.proved == set(proof.system.claims())
    assert set(proof.system.invariants) <= proof.standing


def test_every_shipped_fault_is_in_the_table() -> None:
    assert set(NOTICED) == set(loader.load("disaggregated").faults)


@pytest.mark.parametrize("fault", NOTICED)
def test_the_dropped_check_gives_the_expected_counterexample(fault: str, correct: tuple[Proof, Refuted]) -> None:
    """The step that the fault changes is no longer refuted, and a counterexample to induction says what it breaks."""
    proof, refuted = correct
    label, claim = NOTICED[fault]
    system = loader.load("disaggregated", [fault])
    maker = QueryMaker(system)
    known = {**system.invariants, **system.claims()}
    candidates = [known[n] for n in proof.candidates]
    (transition,) = [t for t in maker.transitions if t.label == label]
    pairs = [c for c in system.transitions.values() if c.name == claim]
    block = maker.step(transition, candidates, {name_of(c) for c in candidates}, pairs)
    assert block is not None
    ask, _ = split([block], refuted, Meanings(maker.formulas.prelude), False)
    assert claim in {q.claim for b in ask for q in b.queries}, "the proof of the correct rules would do for the fault"
    found = counterexample(system, label, claim, list(proof.candidates))
    assert found is not None and label in describe(found, system)


def test_a_fault_of_the_privileged_device_is_noticed() -> None:
    """Any process may open privcmd: no claim of `monolithic` that stood before depends on who is root."""
    assert find_attack(loader.load("monolithic", ["privcmd_for_all"]), "only_by_grant", ("privcmd_for_all",)) is not None


def test_a_dropped_check_gives_a_shortest_attack() -> None:
    trace = find_attack(loader.load("hypervisor", ["no_grantee_check"]), "no_access_without_title", ("no_grantee_check",))
    assert trace is not None
    assert [e.label for e in trace.events] == ["write_entry", "map_grant_ref", "map_grant_ref.insert"]
    assert trace.excluded == 2


def test_tools_can_do_their_work_without_privilege() -> None:
    """The rules are not safe because nothing works: a process of Dom0 does map a guest's page, by grant."""
    system = loader.load("disaggregated")
    p, t = Var("p", "Space"), Var("t", "Translation")
    owner = App("frame.owner", (App("translation.frame", (t,), "Frame"),), "Domain")
    wanted = Quant("exists", (p, t), conj([Use("reaches", (p, t), "bool"), App("translation.present", (t,), "bool"),
                                           neg(App("service", (owner,), "bool"))]))
    search = Search(system, replace(nothing(system), body=neg(wanted)), default_scope(system), 30.0)
    every = search.transitions
    for label in ("write_entry", "open_gntdev", "gntdev_map_grant_ref", "gntdev_mmap", "gntdev_mmap.map",
                  "gntdev_mmap.insert"):
        search.transitions = [t for t in every if t.label == label]
        search.deepen()
    assert search.violated()


# What a step keeps by what it assigns alone.


class Others:
    """The opposite of a frame: what it leaves out is asked, and nothing else."""

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
    with make_pool(2) as pool:  # type: ignore[union-attr]
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
    """Only what surely stays true is left out: constants may name one element, and definitions are looked into."""
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

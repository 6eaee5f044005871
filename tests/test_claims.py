"""Each claim has a fault that violates only this claim, so no claim is implied by the others.

The table lists these faults. A claim that is not in it is named below, with the reason; a new claim in neither fails here.
Not here: whether every fault is noticed (test_systems.py).
"""

from __future__ import annotations

import pytest

from bulkhead.model import loader
from bulkhead.proofs.theorems.induction import Proof, Settings, prove
from bulkhead.proofs.theorems.subsumption import Refuted

SETTINGS = Settings(jobs=1, cross_check=False, patient=False)
SYSTEMS = ("hypervisor", "monolithic", "disaggregated")

ALONE = {
    "part_mapped": ("hypervisor", "parts_are_not_mapped"),
    "frame_of_peer": ("hypervisor", "batch_elements_checked"),
    "half_closed": ("hypervisor", "events_have_two_ends"),
    "given_up_while_used": ("hypervisor", "xens_pages_stay"),
    "table_transferred": ("hypervisor", "xens_pages_stay"),
    "table_written_by_reader": ("hypervisor", "grants_by_owner_or_its_table"),
    "transfer_unasked": ("hypervisor", "pages_go_where_asked"),
    "transfer_outside_table": ("hypervisor", "pages_go_where_asked"),
    "transfer_against_policy": ("hypervisor", "transfers_by_policy"),
    "transfer_to_other_number": ("hypervisor", "pages_come_where_named"),
    "stays_at_first": ("hypervisor", "one_number_per_page"),
    "number_kept": ("hypervisor", "granted_while_numbered"),
    "foreign_of_the_past": ("monolithic", "foreign_while_numbered"),
    "foreign_for_all": ("hypervisor", "foreign_by_privilege"),
    "pause_for_all": ("hypervisor", "domctls_by_privilege"),
    "destroy_for_all": ("hypervisor", "domctls_by_privilege"),
    "unbound_for_all": ("hypervisor", "domctls_by_privilege"),
    "map_withdrawn": ("hypervisor", "uses_begin_in_force"),
    "copy_withdrawn": ("hypervisor", "uses_begin_in_force"),
    "write_withdrawn": ("hypervisor", "writing_begins_in_force"),
    "relay_forgotten": ("hypervisor", "bits_end_with_the_last"),
    "relay_for_all": ("hypervisor", "uses_begin_in_force"),
    "map_against_policy": ("hypervisor", "mappings_by_policy"),
    "copy_against_policy": ("hypervisor", "copies_by_policy"),
    "unbound_against_policy": ("hypervisor", "ports_open_by_policy"),
    "bound_against_policy": ("hypervisor", "events_by_policy"),
    "privcmd_restricted_maps": ("monolithic", "restricted_privcmd_maps_target"),
    "privcmd_restricted_destroys": ("monolithic", "restricted_privcmd_commands_nobody"),
    "loose_iommu": ("disaggregated", "devices_only_by_grant"),
    "gntalloc_any_page": ("disaggregated", "own_pages_by_gntalloc"),
    "gntalloc_gives_mapped": ("disaggregated", "own_pages_by_gntalloc"),
    "close_held": ("disaggregated", "notices_hold_their_ports"),
    "evtchn_ring_any": ("disaggregated", "ports_by_own_file"),
    "evtchn_read_any": ("disaggregated", "rings_by_descriptor"),
    "evtchn_arm_any": ("disaggregated", "ports_by_descriptor"),
    "evtchn_close_any": ("disaggregated", "ports_by_own_file"),
    "evtchn_restricted_binds": ("disaggregated", "restricted_evtchn_for_target"),
    "seal_with_special_pages": ("disaggregated", "special_pages_by_right"),
    "created_before_checked": ("disaggregated", "checked_before_created"),
    "loaded_from_the_ring": ("disaggregated", "loaded_was_checked"),
    "seed_loaded_page": ("disaggregated", "seeded_pages_hold_nothing_loaded"),
    "seeded_in_vain": ("disaggregated", "seeded_for_dom0"),
    "port_for_another": ("disaggregated", "ports_wait_for_dom0"),
    "untold_started": ("disaggregated", "only_told_guests_run"),
    "untold_ended": ("disaggregated", "only_told_guests_are_ended"),
    "ring_not_cleared": ("disaggregated", "rings_show_no_guest"),
    "path_not_confined": ("disaggregated", "files_stay_in_export"),
    "path_checked_in_the_ring": ("disaggregated", "files_stay_in_export"),
    "buffer_not_cleared": ("disaggregated", "loaded_was_read_for_the_guest"),
    "xenstore_rights_by_id": ("disaggregated", "xenstore_by_permission"),
    "xenstore_writes_by_id": ("disaggregated", "xenstore_writing_by_permission"),
    "xenstore_orphans": ("disaggregated", "xenstore_owners_are_there"),
    "xenstore_mkdir_tells": ("disaggregated", "xenstore_answers_by_permission"),
    "xenstore_rm_tells": ("disaggregated", "xenstore_answers_by_permission"),
    "xenstore_told_to_all": ("disaggregated", "xenstore_watches_by_permission"),
    "xenstore_mkdir_rings": ("disaggregated", "xenstore_events_by_change"),
    "xenstore_made_by_readers": ("disaggregated", "xenstore_nodes_come_by_permission"),
    "xenstore_removed_by_readers": ("disaggregated", "xenstore_nodes_go_by_permission"),
    "xenstore_opened_by_writers": ("disaggregated", "xenstore_permissions_by_owner"),
}

SPECIAL = "says of Dom0 what a claim about everybody says: a fault of what they share breaks both"
SEVERAL = "what its faults break, other claims lean on"
NOT_ALONE = {
    "only_by_grant_in_force": SPECIAL,
    "dom0_copies_by_policy": SPECIAL,
    "copies_by_title": SPECIAL,
    "only_by_grant": SPECIAL,
    "only_by_grant_to_write": SPECIAL,
    **dict.fromkeys(
        (
            "sealed_from_builder",
            "clean_handover",
            "right_ends_with_the_build",
            "right_is_given_up",
            "builder_maps_by_right",
            "builder_touches_by_right",
        ),
        "a builder that keeps a mapping or its right over the seal breaks these together",
    ),
    **dict.fromkeys(
        ("only_built_guests_end", "only_built_guests_stand_still"),
        "an id believed from the ring reaches guests under construction, and all that is said of them",
    ),
    "checked_bytes_stay": "check_skipped breaks loaded_was_checked with it: what is loaded is what was checked",
    "seeded_pages_are_the_guests_own": "seed_foreign_page breaks all that is said of the seeds: that nobody has the unborn "
    "guest's table stands on it",
    "translated_by_title": "says of translated guests what claims about everybody say",
    "numbers_by_owner_or_command": "number_uncommanded breaks grants_by_owner_or_its_table with it",
    "free_is_clean": "no_scrub breaks clean_handover with it: it is what that stands on",
    **dict.fromkeys(
        (
            "free_is_unreachable",
            "released_is_released",
            "one_handle_one_mapping",
            "no_access_without_title",
            "no_write_without_title",
            "both_grants_in_use",
            "middle_gives_what_it_has",
            "rights_end_with_incarnation",
            "failed_call_changes_nothing",
            "events_by_invitation",
            "exit_takes_all",
            "process_confined",
            "grants_by_own_descriptor",
            "notices_by_own_descriptor",
            "ports_go_with_files",
            "ring_is_dombs_own",
            "construction_is_undisturbed",
        ),
        SEVERAL,
    ),
}


@pytest.fixture(scope="module")
def correct() -> dict[str, tuple[Proof, Refuted]]:
    """The proofs of the correct rules, computed on demand."""
    return {}


@pytest.mark.parametrize("fault", ALONE)
def test_the_fault_breaks_this_claim_alone(fault: str, correct: dict[str, tuple[Proof, Refuted]]) -> None:
    name, claim = ALONE[fault]
    if name not in correct:
        refuted = Refuted()
        correct[name] = prove(loader.load(name), SETTINGS, refuted=refuted), refuted
    whole, refuted = correct[name]
    broken = prove(loader.load(name, [fault]), SETTINGS, refuted=refuted)
    assert whole.proved - broken.proved == {claim}


def test_every_claim_is_in_a_table() -> None:
    claims = {claim for name in SYSTEMS for claim in loader.load(name).claims()}
    assert claims == {claim for _, claim in ALONE.values()} | set(NOT_ALONE)

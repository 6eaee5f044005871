"""DomB's handlers along all their paths: proved as they are, and with a fault of one line laid over them not.

The faults of the catalogue are those that campaigns notice; the others were made for this. Each names who notices it.
"""

from __future__ import annotations

import pytest

from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.catalogue_domb import BY_NAME, FAULTS
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.handlers.domb.table import DOMB, LEFT_OUT, pairs, unexplained
from bulkhead.proofs.refinement.handlers.table import prove_handler, prove_handlers

BUILDER, SERVICE = "domb/builder:XcDom.", "domb/service:BuilderService."
# Faults of the catalogue, by the handler that notices them.
NOTICED: dict[str, str] = {
    "build": (
        "any_amount_of_memory any_command_line created_first domb_port_for_another port_of_another "
        "memory_short mapped_beyond kernel_a_page_off kernel_for_disk bss_not_cleared console_not_cleared "
        "start_info_in_the_console start_info_port start_info_page wrong_page_seeded wrong_grantee "
        "seeded_read_only seeded_the_other_way mapping_kept one_page_unmapped answer_with_wrong_port "
        "started_before_handed_over another_table_pinned privileged_handles_kept xenstore_page_not_cleared "
        "errno_of_a_build valid_before_it_names_a_page"
    ),
    "undo": "half_built_guest_left undone_with_mappings undone_says_so undone_while_mapped",
    "create": "two_builds_at_once build_before_undone answer_to_the_wrong_request lengths_need_not_add_up long_name_taken",
    "message": "garbage_is_a_message body_of_any_length kind_from_the_ring length_from_the_ring",
    "control": (
        "untold_may_be_asked_for any_guest_may_be_asked_for destroy_forgotten pauses_are_counted "
        "unpause_pauses info_shows_a_frame record_outlives_guest record_goes_unasked wrong_guest_destroyed "
        "untold_may_be_ended longer_request_for_a_guest info_of_untold"
    ),
    "files": (
        "answer_by_kind_alone answer_by_number_alone told_at_once failed_build_forgotten longer_than_asked "
        "size_believed changed_file_taken file_left_open always_the_beginning kernel_for_ramdisk "
        "pages_off_by_one console_for_another xenstore_for_another answer_swapped one_handle_for_all "
        "size_alone_compared empty_read_taken refused_status_taken another_file_closed another_file_read "
        "failure_answered_as_success asks_for_more_than_is_left"
    ),
    "hang up": (
        "untold_guest_left told_guest_destroyed build_outlives_connection answers_outlive_connection abandoned_for_good "
        "last_answer_unseen handles_kept_after_undo"
    ),
    "answers": "answer_counted_short",
    "told": "told_when_posted told_when_sent",
    "foreign pages": "last_page_stays_mapped addresses_lost unmapped_and_cached",
    "shared pages": "page_not_cleared page_freed_in_use grants_lost",
    "offer": "channel_left_half_open pages_stay_shared port_stays_open",
}
# Those that lie elsewhere: Dom0's tools and daemons, rings, and a contract of `DomB: build` (layout, loader).
ELSEWHERE = ("tools/", "rings/", "domb/layout:", "domb/elf:")
# start_info's numbers, pins of page tables, the vCPU's registers, limits of memory and vCPUs, handles and memory of
# DomB's kernel, which frames are a resource, events, queues, a file that changes while it is read, when DomB looks for
# its client, how long a mapping is kept within a build, the numbers of questions, and what a client or a ring keeps are
# in no rule: campaigns notice these.
IN_NO_RULE = {
    "two_vcpus",
    "tables_not_pinned",
    "twice_the_memory",
    "entry_at_the_base",
    "stack_of_another",
    "arguments_leak",
    "files_left_open",
    "resource_of_another_frame",
    "tables_off_by_one",
    "disk_without_pages",
    "frame_list_in_the_map",
    "client_sleeps_on",
    "work_not_told",
    "room_looked_at_twice",
    "outbox_without_end",
    "checked_once",
    "death_unseen",
    "hangs_up_on_the_living",
    "client_reads_another_ring",
    "room_not_told",
    "late_page_forgotten",
    "failed_share_keeps_pages",
    "ports_outlive_handle",
    "foreign_handle_kept",
    "shared_info_by_number",
    "table_mapped_on",
    "kernel_mapped_on",
    "handles_closed_twice",
    "question_numbers_stay",
    "offer_not_tried_again",
    "failed_call_keeps_arguments",
    "half_connected_client",
}
OWN: tuple[tuple[Fault, str], ...] = (
    (
        Fault(
            "told_of_abandoned",
            SERVICE + "_see_who_was_told",
            " and not built.abandoned",
            "",
            "a guest that is to be destroyed counts as told of",
        ),
        "told",
    ),
    (
        Fault(
            "header_not_looked_at", "domb/protocol:Pipe.receive", "magic != MAGIC or ", "", "any sixteen bytes are a header"
        ),
        "message",
    ),
    (Fault("any_length", "domb/protocol:Pipe.receive", " or length > MAX_BODY", "", "any length is believed"), "message"),
    (
        Fault(
            "pinned_while_mapped",
            BUILDER + "boot_image",
            'self.begin("pin",',
            'self.pfn_to_ptr(layout.root, 1); self.begin("pin",',
            "DomB may still write tables when Xen checks them",
        ),
        "build",
    ),
    (
        Fault(
            "started_before_sealed",
            "domb/builder:build",
            "return dom.seal()",
            "ctrl.xc_domain_unpause(dom.control, dom.domid)\n        return dom.seal()",
            "the guest runs before DomB has let go of it",
        ),
        "build",
    ),
    (
        Fault(
            "privilege_kept",
            BUILDER + "release",
            "fm.xenforeignmemory_close(self.fmem)",
            "pass",
            "the way to foreign memory stays open",
        ),
        "build",
    ),
    (
        Fault(
            "way_to_xen_kept",
            BUILDER + "release",
            "ctrl.xc_interface_close(self.xch)",
            "pass",
            "the way to hypercalls stays open",
        ),
        "build",
    ),
    (
        Fault(
            "error_path_leaks",
            "domb/builder:build",
            "if not dom.undo():",
            "if False:",
            "what could not be undone is forgotten",
        ),
        "build",
    ),
    (Fault("left_forgotten", "domb/builder:build", "failure.left = dom", "pass", "nobody is told what is left"), "build"),
    (
        Fault(
            "flags_first",
            BUILDER + "gnttab_init",
            "self.os.store(addr + 8 * ref + 2,",
            "self.os.store(addr + 8 * ref, abi.U16.pack(1)); self.os.store(addr + 8 * ref + 2,",
            "an entry is valid before it names its page",
        ),
        "build",
    ),
    (
        Fault(
            "one_page_for_both",
            BUILDER + "gnttab_init",
            "pfn = self.layout.segments[name].first\n            if pfn in seeded or self.put.get(pfn) is not False:",
            'pfn = self.layout.segments["console"].first\n            if False:',
            "console and XenStore share a page",
        ),
        "build",
    ),
    (
        Fault(
            "console_only",
            BUILDER + "gnttab_init",
            "if backend == self.domid:",
            "if backend == self.domid or ref:",
            "XenStore's page is not granted",
        ),
        "build",
    ),
    (
        Fault(
            "table_of_another",
            BUILDER + "gnttab_init",
            "self.domid, GRANT_TABLE",
            "0, GRANT_TABLE",
            "Dom0's grant table is mapped",
        ),
        "build",
    ),
    (
        Fault(
            "seeded_before_cleared",
            "domb/builder:build",
            "dom.boot_image()\n        dom.gnttab_init()",
            "dom.gnttab_init()\n        dom.boot_image()",
            "pages are granted before they are cleared",
        ),
        "build",
    ),
    (
        Fault(
            "registers_of_another",
            BUILDER + "boot_vcpu",
            "self.control, self.domid, 0",
            "self.control, 0, 0",
            "Dom0's registers are set",
        ),
        "build",
    ),
    (
        Fault(
            "no_flush",
            "domb/minios:MiniOs.unmap_frames",
            "self.mmuext(abi.MMUEXT_TLB_FLUSH_LOCAL)",
            "pass",
            "a TLB still leads to the guest",
        ),
        "foreign pages",
    ),
    (
        Fault(
            "any_row_unmapped",
            "domb/minios:MiniOs.unmap_frames",
            "count < 1 or 0 in self.demand.used[first : first + count] or ",
            "count < 1 or ",
            "a row that was not given out is unmapped",
        ),
        "foreign pages",
    ),
    (
        Fault(
            "handle_is_not_looked_at",
            SERVICE + "_same",
            "info is None or info.handle != self.guests[domid].guest.handle",
            "info is None",
            "a guest is known by its id alone",
        ),
        "control",
    ),
    (
        Fault("same_handle_for_all", SERVICE + "_build", "self.builds += 1", "pass", "all guests have one name in Xen"),
        "files",
    ),
    (
        Fault("channel_left_open", SERVICE + "hang_up", "self.chan.close()", "pass", "the channel outlives its connection"),
        "hang up",
    ),
    (
        Fault(
            "handle_left_open",
            SERVICE + "_control",
            "ctrl.xc_interface_close(xch)",
            "pass",
            "each request leaves a handle open",
        ),
        "control",
    ),
    (
        Fault(
            "undone_unreleased",
            SERVICE + "_retry",
            "self.failing.release()",
            "pass",
            "a build that was undone keeps its handles",
        ),
        "hang up",
    ),
    (Fault("an_empty_piece", "domb/service:fetch", "not got or ", "", "the proxy keeps DomB waiting for ever"), "files"),
    (
        Fault(
            "an_error_is_an_answer",
            "domb/service:_body",
            "if answer.status:",
            "if False:",
            "an error of the proxy is taken for its answer",
        ),
        "files",
    ),
    (
        Fault(
            "channel_for_all", SERVICE + "offer", "self.os, self.client,", "self.os, 5,", "the channel is another domain's"
        ),
        "offer",
    ),
)
CATALOGUED = [(BY_NAME[name], handler) for handler, names in NOTICED.items() for name in names.split()]


def test_all_paths_of_dombs_handlers_are_proved_and_come_to_every_outcome_that_can_be() -> None:
    reports = prove_handlers(tuple(DOMB))
    assert [(r.name, r.findings) for r in reports if not r.proved] == []
    assert all(r.paths > 1 for r in reports)
    assert unexplained([pair for r in reports for pair in r.outcomes]) == ((), ())
    assert not set(LEFT_OUT) - set(pairs())


def test_every_fault_of_the_catalogue_is_noticed_or_lies_elsewhere() -> None:
    here = {fault.name for fault in FAULTS if not fault.where.startswith(ELSEWHERE)} - IN_NO_RULE
    assert {fault.name for fault, _ in CATALOGUED} == here


@pytest.mark.parametrize(
    ("fault", "handler"), [*CATALOGUED, *OWN], ids=lambda part: part.name if isinstance(part, Fault) else ""
)
def test_a_fault_is_noticed(fault: Fault, handler: str) -> None:
    with installed(fault):
        assert not prove_handler(f"DomB: {handler}", stop_early=True).proved

"""Faults of DomB and of Dom0's tools for the comparison to find: one line each, laid over as in refinement_faults.

`python -m tests.domb_faults` measures how many moves of a campaign each one takes to be noticed.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor

from proofs.refinement.campaign import Report
from proofs.refinement.domb.campaign import campaign
from proofs.refinement.domb.world import Size, rules_for
from tests.refinement_faults import LIMIT, Fault, installed

SERVICE, BUILDER = "domb/service:BuilderService.", "domb/builder:XcDom."


def _f(name: str, where: str, old: str, new: str, why: str) -> Fault:
    return Fault(name, where, old, new, why)


FAULTS: tuple[Fault, ...] = (
    # Requests.
    _f("two_builds_at_once", SERVICE + "_create", "self.job is not None or ", "",
       "a second build begins while files are read"),
    _f("build_before_undone", SERVICE + "_create", " or self.failing is not None", "",
       "a build begins while a half-built guest is left"),
    _f("answer_to_the_wrong_request", SERVICE + "_create", "self.job_number = message.number", "self.job_number = 1",
       "the answer goes to another request"),
    _f("untold_may_be_asked_for", SERVICE + "_control", " or not built.told or built.abandoned", "",
       "whoever guesses the id starts a guest that nobody was told of"),
    _f("any_guest_may_be_asked_for", SERVICE + "_control", "if built is None or not built.told or built.abandoned:",
       "if domid == 0:", "an id is believed from the ring"),
    _f("destroy_forgotten", SERVICE + "_act", "return self._end(xch, domid), b\"\"", "return 0, b\"\"",
       "destroy is answered, and not done"),
    _f("pauses_are_counted", SERVICE + "_act", "info.paused or ", "", "two pauses need two unpauses"),
    _f("unpause_pauses", SERVICE + "_act", "ctrl.xc_domain_unpause", "ctrl.xc_domain_pause", "unpause pauses"),
    _f("info_shows_a_frame", SERVICE + "_act", "info.max_pages)", "info.shared_info_frame)",
       "info shows where a page of the guest lies"),
    _f("record_outlives_guest", SERVICE + "_end", "self.guests.pop(domid)", "pass", "a destroyed guest is still known"),
    _f("record_goes_unasked", SERVICE + "_end", "return -self.os.errno",
       "self.guests.pop(domid)\n        return -self.os.errno",
       "a guest that could not be destroyed is forgotten"),
    _f("wrong_guest_destroyed", SERVICE + "_end", "ctrl.xc_domain_destroy(xch, domid)",
       "ctrl.xc_domain_destroy(xch, max(self.guests))", "another guest is destroyed"),
    _f("answer_by_kind_alone", SERVICE + "_handle", "(message.op & ~p.REPLY, message.number) == self.asked",
       "message.op & ~p.REPLY == self.asked[0]", "an answer to an old question is taken for the new one's"),
    _f("answer_by_number_alone", SERVICE + "_handle", "(message.op & ~p.REPLY, message.number) == self.asked",
       "message.number == self.asked[1]", "an answer of another kind is taken"),
    _f("lengths_need_not_add_up", "domb/protocol:unpack_create", " or sum(sizes) != len(rest)", "",
       "a create request with bytes to spare is taken"),
    # Ends of connections.
    _f("untold_guest_left", SERVICE + "hang_up", "if not built.told and not built.abandoned:", "if False:",
       "a guest that nobody was told of is left behind"),
    _f("told_guest_destroyed", SERVICE + "hang_up", "if not built.told and not built.abandoned:", "if not built.abandoned:",
       "all guests go with the connection"),
    _f("build_outlives_connection", SERVICE + "hang_up", "self.job.close()\n            self.job = None", "pass",
       "a build goes on over another connection"),
    _f("answers_outlive_connection", SERVICE + "hang_up", "self.outbox.clear()", "pass",
       "the next client gets the last one's answers"),
    _f("told_when_posted", SERVICE + "_see_who_was_told", "built.at is not None and built.at <= taken and ", "",
       "a guest counts as told before its answer is in the ring"),
    _f("told_when_sent", SERVICE + "_see_who_was_told", "self.sent - self.chan.unread()", "self.sent",
       "a guest counts as told before its answer was taken"),
    _f("told_at_once", SERVICE + "_advance", "Built(guest)", "Built(guest, told=True)",
       "a guest counts as told when it is built"),
    _f("abandoned_for_good", SERVICE + "_retry", "if built.abandoned]", "if False]",
       "an abandoned guest is never destroyed"),
    _f("failed_build_forgotten", SERVICE + "_advance", "self.job, self.failing = None, exc.left", "self.job = None",
       "what could not be undone at once stays"),
    # Files.
    _f("longer_than_asked", "domb/service:fetch", " or len(got) > want", "", "the proxy gives more than it was asked for"),
    _f("size_believed", "domb/service:fetch", "if size > limit:", "if False:", "any size is believed"),
    _f("changed_file_taken", "domb/service:fetch", "!= before:", "== ():", "a file that changed while it was read is taken"),
    _f("file_left_open", "domb/service:fetch", "yield p.FILE_CLOSE, p.FD.pack(fd)\n        raise", "raise",
       "a file that could not be read stays open at the proxy"),
    _f("always_the_beginning", "domb/service:fetch", "p.READ.pack(fd, len(out), want)", "p.READ.pack(fd, 0, want)",
       "the same piece is read again and again"),
    _f("kernel_for_ramdisk", SERVICE + "_build", "fetch(wanted.ramdisk)", "fetch(wanted.kernel)",
       "the wrong file is fetched"),
    _f("pages_off_by_one", SERVICE + "_build", "pages=wanted.pages", "pages=wanted.pages + 1",
       "a guest gets more than it should"),
    _f("console_for_another", SERVICE + "_build", "console_domid=self.client", "console_domid=self.client + 1",
       "the console is granted to another domain"),
    _f("xenstore_for_another", SERVICE + "_build", "xenstore_domid=self.client", "xenstore_domid=self.client + 2",
       "XenStore's page is granted to another domain"),
    _f("any_amount_of_memory", BUILDER + "parse_image", "if not MIN_PAGES <= request.pages <= MAX_PAGES:", "if False:",
       "a guest of too few pages is built"),
    _f("any_command_line", BUILDER + "parse_image", "if len(request.cmdline) > 1023 or b\"\\0\" in request.cmdline:",
       "if False:",
       "a command line with a zero byte is taken"),
    _f("created_first", "domb/builder:build", "dom.parse_image()\n        dom.create()",
       "dom.create()\n        dom.parse_image()",
       "a domain exists before its files are checked"),
    _f("does_not_fit", "domb/layout:plan", "if end + outside > nr_pages:", "if False:",
       "a guest that does not fit is begun"),
    # Building.
    _f("port_for_another", BUILDER + "create", "self.domid, request.console_domid)", "self.domid, 5)",
       "the console's port waits for another domain"),
    _f("port_of_another", BUILDER + "create", "xch, self.domid, request.xenstore_domid)", "xch, 1, request.xenstore_domid)",
       "the port is opened in DomB's own table"),
    _f("memory_short", BUILDER + "boot_mem_init", "range(self.request.pages)", "range(self.request.pages - 1)",
       "a guest gets a page less"),
    _f("mapped_beyond", BUILDER + "pfn_to_ptr", "self.mfns[pfn:pfn + count]", "self.mfns[pfn:pfn + count + 1]",
       "a page more is mapped than is remembered"),
    _f("kernel_a_page_off", BUILDER + "build_image", "self.write(segment.first, self._kernel",
       "self.write(segment.first + 1, self._kernel",
       "the kernel is loaded a page too high"),
    _f("kernel_for_disk", BUILDER + "build_image", "self.write(disk.first, self.request.ramdisk",
       "self.write(disk.first, self.request.kernel",
       "the ramdisk's pages hold the kernel file"),
    _f("bss_not_cleared", BUILDER + "write", "part.ljust(count << PAGE_SHIFT, b\"\\0\")", "part",
       "pages are not filled up with zeros"),
    _f("console_not_cleared", BUILDER + "boot_image", "self.write(layout.segments[\"console\"].first, b\"\", 1)", "pass",
       "the console page is granted as it is"),
    _f("start_info_in_the_console", BUILDER + "boot_image", "self.write(layout.segments[\"start_info\"].first",
       "self.write(layout.segments[\"console\"].first", "start_info is written into the console page"),
    _f("start_info_port", BUILDER + "_start_info", "store_evtchn=self.store_port", "store_evtchn=self.console_port",
       "the guest is told the wrong port"),
    _f("start_info_page", BUILDER + "_start_info", "store_mfn=mfns[segments[\"xenstore\"].first]",
       "store_mfn=mfns[segments[\"console\"].first]", "the guest is told the wrong page"),
    _f("wrong_page_seeded", BUILDER + "gnttab_init", "frame = self.mfns[pfn]", "frame = self.mfns[pfn - 3]",
       "a page with loaded data is granted"),
    _f("wrong_grantee", BUILDER + "gnttab_init", "abi.U16.pack(backend)", "abi.U16.pack(backend + 1)",
       "the grant is another domain's"),
    _f("seeded_read_only", BUILDER + "gnttab_init", "abi.U16.pack(abi.GTF_PERMIT_ACCESS))",
       "abi.U16.pack(abi.GTF_PERMIT_ACCESS | abi.GTF_READONLY))", "the daemons may not write"),
    _f("seeded_the_other_way", BUILDER + "gnttab_init", "addr + 8 * ref + 2", "addr + 8 * (1 - ref) + 2",
       "console and XenStore change places"),
    _f("mapping_kept", BUILDER + "unmap_all",
       "self.zero(fm.xenforeignmemory_unmap(self.foreign, addr, count), \"xenforeignmemory_unmap\")",
       "pass", "mappings are kept over the seal"),
    _f("one_page_unmapped", BUILDER + "unmap_all", "(self.foreign, addr, count)", "(self.foreign, addr, 1)",
       "of each mapping all pages but the first are kept"),
    _f("answer_with_wrong_port", BUILDER + "seal", "self.store_port, self.request", "self.console_port, self.request",
       "the tool is told the wrong port"),
    _f("half_built_guest_left", BUILDER + "undo", " and ctrl.xc_domain_destroy(self.xch, self.domid) == 0", "",
       "a guest whose build failed is left behind"),
    _f("undone_with_mappings", BUILDER + "undo", "if fm.xenforeignmemory_unmap(self.fmem, addr, count)]", "if False]",
       "a guest is destroyed while DomB maps its pages"),
    _f("undone_says_so", BUILDER + "undo", "return not self.mappings and not self.domid", "return True",
       "what could not be undone counts as undone"),
    _f("started_before_handed_over", BUILDER + "seal", "self.unmap_all()",
       "self.unmap_all(); ctrl.xc_domain_unpause(self.control, self.domid)",
       "the guest is started with its sealing"),
    # DomB's kernel, and the channel.
    _f("last_page_stays_mapped", "domb/minios:MiniOs.unmap_frames", "range(first, first + count):",
       "range(first, first + count - 1):",
       "the last page of each mapping is kept"),
    _f("addresses_lost", "domb/minios:MiniOs.unmap_frames", "self.demand.give(first, count)", "pass",
       "addresses are never given back"),
    _f("page_not_cleared", "domb/minios:MiniOs.alloc_pages", "frame.data = None", "pass",
       "a page is shared with what it held"),
    _f("page_freed_in_use", "domb/minios:MiniOs.unshare", "if self.end_access(ref):", "if self.end_access(ref) or True:",
       "a page that a process still maps is used again"),
    _f("grants_lost", "domb/minios:MiniOs.share", "for ref in refs:\n                self.end_access(ref)", "pass",
       "a channel that could not be offered keeps its grants"),
    _f("channel_left_half_open", "libs/vchan:server_init", "except OSError:\n        chan.close()\n        raise",
       "except OSError:\n        raise",
       "a channel that could not be offered keeps its pages and port"),
    _f("pages_stay_shared", "libs/vchan:Vchan.close", "gt.xengntshr_unshare(self.xgs, addr, count)", "pass",
       "the ring's pages stay granted"),
    _f("port_stays_open", "libs/vchan:Vchan.close", "ev.xenevtchn_close(self.xce)", "pass", "the port stays open"),
    _f("answer_swapped", "domb/protocol:pack_guest", "guest.console_port, guest.store_port",
       "guest.store_port, guest.console_port",
       "the answer confuses the ports"),
    # Dom0's tools.
    _f("path_unchecked", "tools/fileproxy:FileProxy.open", " or any(part in (b\"\", b\".\", b\"..\") for part in parts)", "",
       "a path may lead out of the directory"),
    _f("link_followed", "tools/fileproxy:FileProxy.open", "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
       "os.O_RDONLY | os.O_NONBLOCK",
       "a link leads out of the directory"),
    _f("linked_folder_followed", "tools/fileproxy:FileProxy.open", "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd",
       "os.O_RDONLY | os.O_DIRECTORY, dir_fd", "a linked folder leads out of the directory"),
    _f("offset_ignored", "tools/fileproxy:FileProxy.read", "length, offset)", "length, 0)",
       "the proxy reads from the beginning"),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


def hunt(fault: Fault, seed: int = 1, limit: int = LIMIT) -> Report:
    """A campaign over the faulty implementation."""
    with installed(fault):
        return campaign(rules_for(Size()), seed, limit)


def main(names: list[str]) -> int:
    """Measure all faults, or those named; prints the rows of the table. A number among the names is the seed."""
    seed = next((int(name) for name in names if name.isdigit()), 1)
    chosen = [f for f in FAULTS if f.name in names] or list(FAULTS)
    with ProcessPoolExecutor(2) as pool:
        missed = 0
        for fault, report in zip(chosen, pool.map(hunt, chosen, [seed] * len(chosen)), strict=True):
            found = report.failure
            missed += found is None
            what = "" if found is None else found.what.replace("|", "/")[:90]
            print(f"| `{fault.name}` | {fault.why} | {'not found' if found is None else found.calls} | {what} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

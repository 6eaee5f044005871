"""Faults for the comparison to find: one line each, laid over a function of the implementation and taken off again.

A fault names a function, a piece of its text and what stands there instead. The changed function is compiled in its own
module and its code put in place, so that whoever imported it runs the fault. `python -m tests.refinement_faults` measures
how many calls of a campaign each one takes to be noticed.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import FunctionType

from proofs.refinement.campaign import Report, campaign
from proofs.refinement.world import Size, rules_for

LIMIT = 50_000


@dataclass(frozen=True)
class Fault:
    name: str
    where: str  # module:function or module:Class.method, within impl.xen; dom0/module:... within impl.dom0
    old: str
    new: str
    why: str


def _f(name: str, where: str, old: str, new: str, why: str) -> Fault:
    return Fault(name, where, old, new, why)


FAULTS: tuple[Fault, ...] = (
    _f("map_needs_host", "grant_map:map_grant_ref", "if not flags & 3:", "if not flags & 2:",
       "a map for devices only is refused"),
    _f("map_in_use_for_anybody", "grant_map:map_grant_ref", "act.domid != mapper.domid or ", "",
       "an entry in use is mapped for a third domain"),
    _f("map_upgrade_unchecked", "grant_map:map_grant_ref", "elif not pin or (not readonly and not pin & PIN_WRITERS):",
       "elif not pin:", "the first writer of an entry in use is not checked against GTF_readonly"),
    _f("map_any_frame", "grant_map:get_paged_frame", "if frame.owner is not domain or frame.count == 0:",
       "if frame.owner is None:", "a granter grants frames of others"),
    _f("map_failed_keeps_pin", "grant_map:map_grant_ref", "        act.pin -= inc\n", "",
       "a map that fails late keeps its pin"),
    _f("map_failed_keeps_status", "grant_map:map_grant_ref",
       "act.pin -= inc\n        table.reduce_status(ref, act, readonly)",
       "act.pin -= inc", "a map that fails late leaves the in-use bits"),
    _f("map_failed_keeps_handle", "grant_map:map_grant_ref",
       "put_handle(mapper.grant_table, vcpu, handle)\n        granter.put()", "granter.put()",
       "a map that fails late loses its handle"),
    _f("map_failed_keeps_types", "grant_map:_take_and_map", "for _ in range(types):", "for _ in range(0):",
       "a map that fails keeps a type reference"),
    _f("map_failed_keeps_page", "grant_map:_take_and_map", "for _ in range(refs):", "for _ in range(refs - 1):",
       "a map that fails keeps a page reference"),
    _f("map_device_page_unheld", "grant_map:_take_and_map", "frame.count += 1\n                refs += 1", "refs += 1",
       "host and device map share one page reference (XSA-380 kind)"),
    _f("map_untyped", "grant_host:host_needs_type", "return not readonly and", "return False and",
       "a writable map takes no type: page tables can be written"),
    _f("map_without_policy", "grant_map:map_grant_ref", "if xen.xsm.grant_map(", "if 0 and xen.xsm.grant_map(",
       "the policy is not asked"),
    _f("map_records_wrong_mode", "grant_map:map_grant_ref", "record.flags = flags & 0xFFFF",
       "record.flags = flags & 0xFFFB", "the record forgets that the mapping is read-only"),
    _f("host_entry_writable", "grant_host:create_mapping", "if not flags & GNTMAP_READONLY:", "if True:",
       "a read-only map writes a writable entry"),
    _f("host_entry_leaks_old", "grant_host:create_mapping", "if old & PTE_P:", "if False:",
       "what was mapped at the address before is never released"),
    _f("unmap_frees_half_used_record", "grant_unmap:unmap_one", "    if not record.flags & 3:\n        put",
       "    if True:\n        put", "a handle is given back while its other part is mapped (XSA-228 kind)"),
    _f("unmap_other_incarnation", "grant_unmap:unmap_one", "if granter is not record.granter:", "if False:",
       "a record outlives its granter and hits the next domain of that id"),
    _f("unmap_keeps_host", "grant_unmap:unmap_one", "record.flags &= ~GNTMAP_HOST_MAP", "pass",
       "the record keeps its host part"),
    _f("unmap_wrong_class", "grant_unmap:unmap_one", "done = GNTMAP_HOST_MAP | (flags & GNTMAP_READONLY)",
       "done = GNTMAP_HOST_MAP", "a read-only unmap drops a writer's pin"),
    _f("unmap_bus_unchecked", "grant_unmap:unmap_one",
       "if dev_bus_addr and flags & GNTMAP_DEVICE_MAP and dev_bus_addr != frame.mfn << 12:", "if False:",
       "any bus address will do"),
    _f("unmap_without_flush", "grant_unmap:finish", "vcpu.domain.flush_tlb()", "pass",
       "no flush between the phases"),
    _f("unmap_pin_before_flush", "grant_unmap:finish", "yield \"unmap.flush\"\n",
       "[unmap_complete(xen, vcpu.domain, w) for w in pending]\n    pending = ()\n    yield \"unmap.flush\"\n",
       "pins and pages go before the flush (XSA-218)"),
    _f("unmap_keeps_bits", "grant_unmap:unmap_complete", "if ref < table.nr_entries:", "if False:",
       "the in-use bits stay after the last unmap"),
    _f("unmap_device_keeps_type", "grant_unmap:unmap_complete",
       "if not readonly:\n            put_page_type(xen, frame)\n        act.pin -= PIN_DEVR", "act.pin -= PIN_DEVR",
       "a device unmap keeps its type reference"),
    _f("unmap_any_entry", "grant_host:replace_mapping", "(old & PTE_MFN) >> 12 == frame.mfn and ", "",
       "the entry at the address may hold another frame"),
    _f("status_v1_readonly", "grant_entries:GrantTable._set_status_v1", "if flags & GTF_READONLY:", "if False:",
       "write access to a read-only grant"),
    _f("status_v1_grantee", "grant_entries:GrantTable._set_status_v1", " or dom != domid", "",
       "an entry is used by whom it does not name"),
    _f("status_v1_no_cmpxchg", "grant_entries:GrantTable._set_status_v1", "if seen == flags and seen_dom == dom:",
       "if True:", "the entry may change between the check and the claim"),
    _f("status_v2_no_recheck", "grant_entries:GrantTable._set_status_v2",
       "if refused() or (not readonly and flags & GTF_READONLY):", "if False:",
       "the same in version 2"),
    _f("writing_cleared_early", "grant_entries:GrantTable.reduce_status",
       "if not readonly and not act.pin & PIN_WRITERS:", "if not readonly:",
       "GTF_writing goes with the first writer"),
    _f("reading_cleared_early", "grant_entries:GrantTable.reduce_status", "clear = 0 if act.pin else GTF_READING",
       "clear = GTF_READING", "GTF_reading goes with the first user"),
    _f("copy_in_use_for_anybody", "grant_copy:acquire", "act.domid != user or ", "",
       "a copy through an entry that is in use by another domain"),
    _f("copy_upgrade_stale", "grant_copy:acquire", "act.frame is not frame or ", "",
       "a copy's write upgrade takes the entry's word for what is pinned (XSA-500)"),
    _f("copy_from_dying", "grant_copy:acquire", " or granter.is_dying:", ":",
       "a copy through a pinned entry of a dying domain"),
    _f("copy_pin_class", "grant_copy:release", "act.pin -= PIN_HSTR if readonly else PIN_HSTW", "act.pin -= PIN_HSTR",
       "a write copy lets go of a reader's pin"),
    _f("copy_frame_of_peer", "grant_copy:_claim", "if domid != DOMID_SELF:", "if False:",
       "a peer's frame named by its number (CVE-2026-102704)"),
    _f("copy_untyped", "grant_copy:_claim", "if not readonly and get_page_type(xen, frame, PGT_WRITABLE):",
       "if not readonly and (frame.__setattr__('tcount', frame.tcount + 1)):", "a copy writes into page tables"),
    _f("copy_out_of_page", "grant_copy:copy_one", "if src_off + length > PAGE_SIZE or dst_off + length > PAGE_SIZE:",
       "if False:", "a copy leaves its page"),
    _f("copy_without_policy", "grant_copy:copy_one", "if xen.xsm.grant_copy(", "if 0 and xen.xsm.grant_copy(",
       "the policy is not asked"),
    _f("copy_leaks_domain", "grant_copy:copy_one", "    ddom.put()\n", "",
       "a copy keeps a reference on the domain: it never goes"),
    _f("transfer_referenced", "grant_transfer:steal_page", "if frame.count != 1 or frame.tcount:", "if frame.tcount:",
       "a page is given away while it is mapped (XSA-217)"),
    _f("transfer_to_anybody", "grant_transfer:_commit", "flags != GTF_ACCEPT_TRANSFER or domid != giver",
       "flags != GTF_ACCEPT_TRANSFER", "a page is given to a domain that waits for another's"),
    _f("transfer_flushes_giver_only", "grant_transfer:transfer_one", "for domain in xen.domains.values():",
       "for domain in (giver,):", "whoever mapped a page last reaches it when it is somebody else's"),
    _f("transfer_failed_kept", "grant_transfer:_give",
       "    if taker is None:\n        xen.frames.put_page(frame)", "    if taker is None:\n        pass",
       "a transfer to nobody leaks the page"),
    _f("version_busy_unchecked", "grant_admin:set_version", "if table.active[ref].pin:", "if False:",
       "the version is switched under grants in use"),
    _f("version_frees_mapped_status", "grant_entries:GrantTable.unpopulate_status",
       "if any(frame.count > (1 if frame.allocated else 0) or frame.tcount > 1 for frame in self.status):", "if False:",
       "status frames are freed while mapped (XSA-255)"),
    _f("version_keeps_entries", "grant_admin:set_version", "shared.bytes()[:] = bytes(PAGE_SIZE)", "pass",
       "old entries are read in the new layout"),
    _f("death_keeps_bits", "lifecycle:release_mappings", "if record.ref < table.nr_entries:", "if False:",
       "the death of a mapper leaves the in-use bits"),
    _f("death_hits_new_domain", "lifecycle:release_mappings", "granter is not made_by or ", "",
       "a dying mapper's old records drop pins of the next domain of that id"),
    _f("death_keeps_device_type", "lifecycle:release_mappings",
       "if not readonly:\n                put_page_type(xen, frame)\n            xen", "xen",
       "a dying mapper's device maps keep their type references"),
    _f("death_leaks_tables", "lifecycle:_relinquish", "            unshare(xen, shared)", "            pass",
       "the grant table's frames stay held"),
    _f("heap_unscrubbed", "frames:FrameTable._hand_out", "if frame.dirty:", "if False:",
       "a dead domain's page is handed out as it is"),
    _f("heap_never_dirty", "frames:FrameTable._free", "frame.dirty = owner is None or owner.is_dying != 0",
       "frame.dirty = False", "pages of the dead are not marked for scrubbing"),
    _f("heap_without_flush", "machine:Xen.alloc_frame", "if frame is not None and frame.free_stamp >= 0:", "if False:",
       "a page is handed out while a TLB still leads to it"),
    _f("entry_foreign", "pagetables:get_page_from_l1e", "if real is not pg_owner and (", "if False and (",
       "a page-table entry may hold anybody's frame"),
    _f("entry_keeps_type", "pagetables:put_page_from_l1e", "        frame.tcount -= 1", "        pass",
       "clearing a writable entry keeps the type reference"),
    _f("types_confused", "pagetables:get_page_type", "if frame.ptype != wanted or not frame.validated:", "if False:",
       "a page table may be mapped for writing"),
    _f("decrease_foreign", "physmap:remove_page", "frame.owner is not domain or ", "",
       "a domain gives up pages of others"),
    _f("decrease_keeps", "physmap:remove_page", "    xen.frames.put_alloc_ref(frame)", "    pass",
       "a page that is given up stays held"),
    _f("id_taken_twice", "lifecycle:create_domain", "if domid in xen.domains:", "if False:",
       "a zombie's id is given out"),
    _f("port_for_another", "events:EventChannels.bind_interdomain", " or other.remote_domid != self.domain.domid", "",
       "a port that waits for another domain is bound to"),
    _f("port_half_closed", "events:EventChannels.close", "other.state = UNBOUND", "pass",
       "the other end of a closed channel is not told"),
    _f("port_silent_at_first", "events:EventChannels.bind_interdomain", "port.pending = True", "pass",
       "what was rung before the binding is lost"),
    _f("port_of_the_dying", "events:EventChannels.free_port", "if self.domain.is_dying:", "if False:",
       "a port is opened in a dying domain"),
    _f("port_without_privilege", "events:op_alloc_unbound", "    if rc:\n", "    if False:\n",
       "a guest opens ports in other domains' tables"),
    _f("port_outlives_domain", "lifecycle:destroy", "domain.events.destroy()", "pass",
       "the ports of a dying domain stay bound"),
    _f("evtchn_any_port", "dom0/evtchn:Evtchn.notify", "if port not in self.ports:", "if False:",
       "a process rings ports of other files"),
    _f("evtchn_unrestricted", "dom0/evtchn:Evtchn._check", "if self.restricted not in (UNRESTRICTED, domid):", "if False:",
       "a restricted file binds to any domain"),
    _f("evtchn_kept_open", "dom0/evtchn:Evtchn.release", "list(self.ports)", "()",
       "ports stay open after the last close"),
    _f("evtchn_told_twice", "dom0/evtchn:Evtchn.upcall", "self.ports[number] = False", "pass",
       "a port that was read rings again before it is written back"),
    _f("privcmd_foreign_unrestricted", "dom0/privcmd:Privcmd._check", "if self.domid not in (NOT_RESTRICTED, domid):",
       "if False:", "a restricted file maps any guest's pages"),
    _f("privcmd_call_unrestricted", "dom0/privcmd:Privcmd.hypercall", "if self.domid != NOT_RESTRICTED:", "if False:",
       "a restricted file makes hypercalls"),
    _f("privcmd_restricted_anew", "dom0/privcmd:Privcmd.restrict", "if self.domid == NOT_RESTRICTED:", "if True:",
       "a restriction is replaced by another one"),
    _f("notice_byte_kept", "dom0/gntdev:Gntdev._unmap_run", "gmap.notify_flags & NOTIFY_CLEAR_BYTE and first",
       "False and first", "the byte of an unmap notification is not cleared"),
    _f("notice_not_sent", "dom0/gntdev:Gntdev._put", "if gmap.notify_flags & NOTIFY_SEND_EVENT:", "if False:",
       "the event of an unmap notification is not sent"),
    _f("notice_sent_early", "dom0/gntdev:Gntdev.vma_close", "gmap, vma.private = vma.private, None",
       "gmap, vma.private = vma.private, None\n    if gmap.notify_flags & NOTIFY_SEND_EVENT:\n"
       "        self.kernel.evtchn_op(abi.EVTCHNOP_SEND, abi.U32.pack(gmap.notify_port))",
       "the event is sent while the map is still listed"),
    _f("mmap_twice", "dom0/gntdev:Gntdev.mmap", "found is None or found.in_use", "found is None",
       "a map is mapped a second time"),
    _f("mmap_failed_keeps_part", "dom0/gntdev:Gntdev.mmap", "self._unmap_pages(found, 0, found.count)", "pass",
       "an mmap that fails keeps what it has mapped"),
    _f("gntdev_copy_hides_errors", "dom0/gntdev:Gntdev._flush_copy", "if status and seg.status == abi.GNTST_OKAY:",
       "if False:", "the process is not told that a copy failed"),
    _f("fork_copies_grants", "dom0/gntdev:Gntdev.mmap", "vma.dontcopy = True", "pass",
       "a child inherits a gntdev mapping"),
    _f("killed_keeps_files", "dom0/process:Process.exit", "list(self.files)", "()",
       "a process that is killed leaves its descriptors open"),
    _f("killed_keeps_mappings", "dom0/process:AddressSpace.destroy", "for vma in list(self.vmas):", "for vma in ():",
       "a process that is killed leaves its mappings"),
    _f("handle_lost", "maptrack:put_handle", "owner.maptrack_tail = handle", "pass",
       "a handle given back falls off its list"),
    _f("swap_of_what_is_in_use", "grant_admin:swap_grant_ref",
       "if table.active[ref_a].pin or table.active[ref_b].pin:", "if False:", "entries in use are exchanged"),
    _f("part_mapped", "grant_map:map_grant_ref", " or act.sub_page", "", "what is in use in part is mapped as a whole"),
    _f("copy_before_the_part", "grant_copy:copy_one", "src_off < s_start or ", "",
       "a copy reads what lies before the part granted"),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


def _function(where: str) -> FunctionType:
    module, _, path = where.partition(":")
    folder, _, name = module.rpartition("/")
    found: object = importlib.import_module(f"impl.{folder or 'xen'}.{name}")
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, staticmethod):
        found = found.__func__
    assert isinstance(found, FunctionType)
    return found


@contextlib.contextmanager
def installed(fault: Fault) -> Iterator[None]:
    """The implementation with a fault, for a while."""
    function = _function(fault.where)
    source = textwrap.dedent(inspect.getsource(function))
    old, new = fault.old, fault.new
    if source.count(old) < 1 and "\n" in old:
        old, new = old.replace("\n    ", "\n"), new.replace("\n    ", "\n")
    if old not in source:
        raise LookupError(f"{fault.name}: `{fault.old}` does not stand in {fault.where}")
    code = compile("from __future__ import annotations\n" + source.replace(old, new, 1), f"<{fault.name}>", "exec")
    scope: dict[str, object] = {}
    exec(code, function.__globals__, scope)
    changed = scope[function.__name__]
    assert isinstance(changed, FunctionType)
    kept = function.__code__
    function.__code__ = changed.__code__
    try:
        yield
    finally:
        function.__code__ = kept


def hunt(fault: Fault, seed: int = 1, limit: int = LIMIT) -> Report:
    """A campaign over the faulty implementation."""
    with installed(fault):
        return campaign(rules_for(Size()), seed, limit)


def main(names: list[str]) -> int:
    """Measure all faults, or those named; prints the rows of the table. A number among the names is the seed."""
    seed = next((int(name) for name in names if name.isdigit()), 1)
    chosen = [f for f in FAULTS if f.name in names] or list(FAULTS)
    with ProcessPoolExecutor() as pool:
        reports = list(pool.map(hunt, chosen, [seed] * len(chosen)))
    for fault, report in zip(chosen, reports, strict=True):
        found = report.failure
        calls = "not found" if found is None else str(found.calls)
        what = "" if found is None else found.what.replace("|", "/")[:90]
        print(f"| `{fault.name}` | {fault.why} | {calls} | {what} |")
    return int(any(report.failure is None for report in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

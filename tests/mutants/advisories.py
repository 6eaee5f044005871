"""`python -m tests.mutants.advisories`: faults of the kinds of published advisories on Xen and Linux, and their detectors.

Each is one change of one function, in the place where an advisory's fault would be in this implementation. Not here: the
faults of `bulkhead faults` (proofs/faults), of which none is repeated. Exit code 1 when some survive.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.laying import function_at, installed
from tests.lines_run import ready, runners
from tests.mutants.asking import detector


def _f(name: str, where: str, old: str, new: str, why: str) -> Fault:
    return Fault(name, where, old, new, why)


FAULTS: Final[tuple[Fault, ...]] = (
    # Exchange and reservations: XSA-29, XSA-159, XSA-212, XSA-172 kinds.
    _f("exchange_list_in_xen", "exchange:_refused", "not handle_okay(vcpu, (given.at",
       "False and not handle_okay(vcpu, (given.at",
       "the list of an exchange may be in Xen's own memory (XSA-29, XSA-212)"),
    _f("exchange_output_in_xen", "exchange:_refused", "or not handle_okay(\n        vcpu, (wanted.at",
       "or False and not handle_okay(\n        vcpu, (wanted.at",
       "the output of an exchange may be in Xen's memory (XSA-212)"),
    _f("exchange_more_than_given", "exchange:_refused",
       "or (given.nr << given.order) & U64_MASK != (wanted.nr << wanted.order)",
       "or False and (given.nr << given.order) & U64_MASK != (wanted.nr << wanted.order)", "more pages come back than went"),
    _f("exchange_failed_loses_pages", "exchange:_one_chunk",
       "        for frame in stolen:\n            assign_page(domain, frame)\n",
       "", "an exchange that fails loses the pages (XSA-159)"),
    _f("exchange_failed_keeps_fresh", "exchange:_one_chunk", "xen.frames.put_alloc_ref(frame)", "pass",
       "an exchange that fails keeps the new pages (XSA-159)"),
    _f("populate_over_limit", "memory_op:populate_page", "domain.tot_pages + (1 << order) > domain.max_pages",
       "domain.tot_pages >= domain.max_pages", "an extent goes over the domain's limit"),
    _f("claim_by_anybody", "memory_op:_claim", 'rc = xen.xsm.priv("claim_pages", vcpu.domain)', "rc = 0",
       "a guest claims memory for others"),
    # Page tables and types: XSA-148, XSA-182, XSA-240, XSA-299, XSA-401, XSA-438 kinds.
    _f("large_pages", "pagetables:entry_get", "if pte & UPPER_DISALLOW:", "if pte & UPPER_DISALLOW & ~PTE_PSE:",
       "an L2 entry may map a large page (XSA-148)"),
    _f("rights_without_check", "pagetables:same_mapping", "(PTE_MFN | (0xFFF & ~FASTPATH_FLAGS))", "PTE_MFN",
       "a change of the write bit needs no check (XSA-182)"),
    _f("linear_chains", "pagetables:_get_linear", "table.linear < 0 or child.linear > 0", "False",
       "tables of a level point to each other in chains (XSA-240)"),
    _f("linear_writable", "pagetables:_get_linear", "if pte & PTE_RW:", "if False:",
       "a table is writable by a table (XSA-182)"),
    _f("undone_too_far", "pagetables:_validate", "_devalidate(xen, frame, level, i)",
       "_devalidate(xen, frame, level, i + 1)",
       "a refused table drops a reference it never took (XSA-299)"),
    _f("type_without_flush", "pagetables:get_page_type", "frame.owner.flush_tlb()", "pass",
       "a page becomes a table while TLBs let it be written (XSA-401)"),
    _f("table_keeps_children", "pagetables:put_page_type", "_devalidate(xen, frame, frame.ptype, ENTRIES)", "pass",
       "a table that ends keeps the references of its entries (XSA-438)"),
    _f("xen_slots", "mmu:update_entry", "if level == PGT_L4 and index in XEN_L4_SLOTS:", "if False:",
       "a guest writes the slots of a root that are Xen's"),
    _f("linear_address_of_a_table", "mmu:update_va_mapping", "table.ptype != 1", "False",
       "an entry of an upper table is checked as a leaf's (XSA-240)"),
    _f("m2p_of_others", "mmu:mmu_update_one", "frame is None or frame.owner is not pg_owner", "frame is None",
       "a guest writes the M2P of others' frames (XSA-251)"),
    _f("tables_of_others", "mmu:check_owners",
       'return xen.xsm.target("mmu_update", caller, pt_owner) if pt_owner is not caller else 0', "return 0",
       "any guest writes another's tables"),
    _f("pins_for_others", "hypercall_mmu:do_mmuext_op", 'rc = xen.xsm.target("mmuext_op", vcpu.domain, pg_owner)', "rc = 0",
       "any guest pins others' tables"),
    _f("update_without_flush",
       "hypercall_mmu:do_mmu_update", 'yield "mmu.flush"\n    pt_owner.flush_tlb()', 'yield "mmu.flush"',
       "what an update removed stays in TLBs (XSA-346)"),
    _f("root_without_flush", "mmuext:_new_root", "vcpu.tlb.flush(xen.frames.stamp)", "pass", "a new root, and the old TLB"),
    _f("address_of_xen", "pagetables:addr_ok", "HYPERVISOR_VIRT_END <= addr", "0xFFFF800000000000 <= addr",
       "a guest's pointer may be Xen's memory (XSA-212)"),
    # Grants: XSA-217, XSA-218, XSA-224, XSA-226, XSA-228, XSA-230, XSA-295, XSA-318, XSA-380, XSA-394 kinds.
    _f("device_pin_of_host", "grant_unmap:unmap_complete", "act.pin -= PIN_DEVR if readonly else PIN_DEVW",
       "act.pin -= PIN_HSTR if readonly else PIN_HSTW", "the unmap of a device's part ends the host's (XSA-224)"),
    _f("unmap_forgets_readonly", "grant_unmap:unmap_one", "done = GNTMAP_HOST_MAP | (flags & GNTMAP_READONLY)",
       "done = GNTMAP_HOST_MAP", "a read-only unmap drops a type it never took (XSA-224)"),
    _f("pin_overflows", "grant_map:map_grant_ref", "pin & (inc << 7) or ", "", "a counter of maps runs over (XSA-228)"),
    _f("copy_pin_overflows", "grant_copy:acquire", "or old_pin & (inc << 7)", "", "a counter of copies runs over"),
    _f("transitive_kept", "grant_copy:release", "if inner is not None and inner is not granter:", "if False:",
       "the inner grant of a transitive one is never released (XSA-226)"),
    _f("transitive_twice", "grant_copy:_acquire_transitive", "if not transitive_ok or", "if",
       "transitive grants lead on and on (XSA-226)"),
    _f("sentinel_given_out", "maptrack:get_handle", "if following != MAPTRACK_TAIL:", "if True:",
       "the last handle of a list is given out (XSA-228)"),
    _f("status_frames_too_many", "grant_admin:get_status_frames", "if nr_frames > len(table.status):",
       "if nr_frames > len(table.status) + 1:", "frames that are none are told (XSA-379)"),
    _f("copy_keeps_type", "grant_copy:copy_one", "_unclaim(xen, ddom, dst, d_ref, dframe, False)",
       "_unclaim(xen, ddom, dst, d_ref, dframe, True)", "a copy keeps the page's type and pins (XSA-318)"),
    _f("copy_refused_keeps_page", "grant_copy:acquire", "xen.frames.put_page(frame)\n            table.reduce_status",
       "table.reduce_status", "a copy that is refused keeps a page reference (XSA-411)"),
    _f("death_keeps_pins", "lifecycle:release_mappings", "act.pin -= PIN_HSTR if readonly else PIN_HSTW", "pass",
       "a dead mapper's pins stay (XSA-380)"),
    _f("death_puts_twice", "lifecycle:release_mappings", "if mapper.external:", "if True:",
       "the pages of a dead PV mapper are released twice (XSA-394)"),
    _f("one_try", "grant_entries:GrantTable._set_status_v1", "range(STATUS_RETRIES)", "range(1)",
       "a granter stops a map by writing once (XSA-295)"),
    _f("grant_over_grant", "grant_host:_create_p2m", "if old_type in SPECIAL_TYPES:", "if False:",
       "a grant replaces another one in the p2m"),
    # The p2m: XSA-234, XSA-378, XSA-388 kinds.
    _f("gfn_of_others", "physmap:add_to_physmap", "domain.p2m.own(idx, domain)",
       "domain.p2m.lookup(idx)[0]", "what a guest maps of others is moved as its own"),
    _f("xen_page_given_up", "physmap:_previous_goes", "if previous.xenheap:", "if False:",
       "a page of Xen's is freed as RAM"),
    _f("grant_removed_by_hand", "physmap:remove_from_physmap", "domain.p2m.own(gfn, domain) is None", "False",
       "the entry of a grant is removed and its pin stays"),
    _f("resource_for_anybody", "resources:acquire_resource", "if rc:\n        return rc\n    most", "most",
       "any guest maps another's grant table"),
    # Control: XSA-77, XSA-127 kinds.
    _f("domctl_for_all", "domctl:do_domctl", 'if cmd in CHECK_THEMSELVES else xen.xsm.priv("domctl", caller)', "",
       "any guest is the toolstack"),
    _f("target_for_all", "lifecycle:set_target", 'rc = caller.xen.xsm.priv("set_target", caller)', "rc = 0",
       "any guest becomes a device model"),
    _f("info_for_all", "domctl:_getdomaininfo", 'rc = xen.xsm.xs_priv("getdomaininfo", vcpu.domain, xen.domains[domid])',
       "rc = 0", "any guest asks about others"),
    # Event channels: XSA-337, XSA-342, XSA-344 kinds.
    _f("status_for_all", "events:op_status", 'rc = xen.xsm.target("evtchn_status", vcpu.domain, domain)', "rc = 0",
       "any guest asks about others' ports"),
    _f("reset_of_the_running", "events:op_reset", "if domain is not vcpu.domain and not domain.pause_count:", "if False:",
       "the ports of a domain that runs are closed (XSA-344)"),
    _f("more_ports", "events:EventChannels.free_port", "self.domain.max_evtchn_port + 1", "4096",
       "a domain's limit of ports"),
    _f("vcpu_beyond", "events:op_bind_vcpu", "if vcpu_id >= len(vcpu.domain.vcpus):", "if vcpu_id > len(vcpu.domain.vcpus):",
       "a port is bound to a vCPU that does not exist"),
    # Dom0's drivers: XSA-331, XSA-361, XSA-396 kinds, and restricted descriptors.
    _f("batch_unrestricted", "dom0/ioctl_control:_mmapbatch_v1", "device.check(dom)", "pass",
       "a restricted file maps others"),
    _f("runs_unrestricted", "dom0/ioctl_control:_mmap", "device.check(dom)", "pass", "a restricted file maps others"),
    _f("resource_unrestricted", "dom0/ioctl_control:_mmap_resource", "device.check(dom)", "pass",
       "a restricted file maps others"),
    _f("end_while_read", "dom0/kernel:Kernel.end_access", "flags & (abi.GTF_READING | abi.GTF_WRITING)",
       "flags & abi.GTF_WRITING",
       "a page that its peer still reads is freed (XSA-396)"),
    _f("private_written_through", "dom0/privcmd:Privcmd._fill", "vma.writable and vma.shared", "vma.writable",
       "a store to a private mapping reaches the guest"),
    _f("unmapped_entry_stays", "dom0/process:AddressSpace._drop", "self.set_pte(page, 0)", "pass",
       "munmap leaves the entry"),
)


def main() -> int:
    """Ask every detector of each fault's function."""
    asked = runners(lambda line: print(line, file=sys.stderr, flush=True))
    ready("xen")
    survivors = 0
    for fault in FAULTS:
        code = function_at(fault.where).__code__
        file = code.co_filename.partition("/impl/")[2]
        lines = {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
        askable = [r for r in asked if r.kind == "long campaign" or lines & r.lines.get(file, frozenset())]
        by, how, tried = detector(fault.name, partial(installed, fault), askable)
        survivors += not by
        print(f"{fault.name} ({fault.why}): {by + ': ' + how[:90] if by else f'SURVIVES ({tried} asked)'}", flush=True)
    print(f"{len(FAULTS) - survivors} of {len(FAULTS)} noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

"""Faults that campaigns cannot notice, because the rules abstract from their effect: a unit test notices each.

`tests/test_blind_spots.py` lays each of them and checks that the test beside it fails. `bulkhead faults` does not hunt them:
an installation has no tests. Not allowed here: faults that a campaign notices (catalogue.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from bulkhead.proofs.faults.catalogue import Fault


def _f(name: str, where: str, old: str, new: str, why: str) -> Fault:
    return Fault(name, where, old, new, why)


# By the test that notices them, within tests/impl.
FAULTS: Mapping[str, tuple[Fault, ...]] = {
    "test_foreign_tables.py": (
        _f("crashed_goes_on", "hypercall:dispatch", " or vcpu.domain.crashed", "", "a crashed domain goes on calling"),
        _f("result_straddles", "hypercall:_store", "return write(xen, vcpu, addr, out)", "return True",
           "a result that straddles a page is not stored"),
        _f("result_second_page", "guest_access:write", "pos += take", "pos = len(payload)",
           "only the first page of a result is stored"),
        _f("count_upper_bits", "hypercall:do_grant_table_op", "    count &= 0xFFFFFFFF\n", "",
           "bits above a count are looked at"),
    ),
    "test_versions.py": (
        _f("reserved_lost", "grant_admin:set_version",
           "reserved.append((flags | U16.unpack_from(data, off)[0], domid, frame))", "reserved.append((0, 0, 0))",
           "reserved entries are lost on the way from version 2 to 1"),
        _f("reserved_frame_lost", "grant_admin:set_version", "ENTRY_V1.pack_into(data, off, flags & 0xFFFF, domid, frame)",
           "ENTRY_V1.pack_into(data, off, flags & 0xFFFF, domid, 0)", "reserved entries forget their frames"),
        _f("reserved_bits_lost", "grant_admin:set_version", "U16.pack_into(word, woff, flags & IN_USE)", "pass",
           "the in-use bits of reserved entries are lost on the way from version 1 to 2"),
        _f("version_wide_frame", "grant_admin:set_version", "frame >> 32", "frame >> 33",
           "a frame number that version 1 cannot hold is cut"),
        _f("version_not_offered", "grant_admin:set_version", "version == 2 and table.max_version == 1", "False",
           "a domain gets a version that it may not have"),
        _f("version_of_a_part", "grant_admin:set_version", "act.pin and act.sub_page", "False",
           "a grant of a part of a page in use becomes one of the whole"),
        _f("status_for_one_frame", "grant_admin:set_version",
           "table.populate_status(len(table.shared))",
           "table.populate_status(1)",
           "status frames for the first frame of the table only"),
        _f("grown_without_status", "grant_entries:GrantTable.grow",
           "if self.version == 2 and not self.populate_status(nr_frames):",
           "if False:",
           "a table grows without status frames"),
    ),
    "test_migration.py": (
        _f("unmap_unlogged", "grant_unmap:unmap_one",
           "granter.mark_dirty(frame.mfn)",
           "pass",
           "what was written through a grant is not in the log of written pages"),
    ),
    "test_page_entries.py": (
        _f("pte_spare_refused", "pagetables:get_page_from_l1e", "if pte & L1_DISALLOW:",
           "if pte & (L1_DISALLOW | PTE_AVAIL):", "a guest may not use bits 9-11 of its entries"),
        _f("pte_spare_lost", "pagetables:adjust_entry", "return pte | PTE_USER", "return (pte | PTE_USER) & ~PTE_AVAIL",
           "bits 9-11 of an entry are cleared"),
        _f("pte_reserved_let_in", "pagetables:entry_get", "if pte & UPPER_DISALLOW:", "if False:",
           "upper entries may have bits that no guest may set"),
    ),
    "test_policies.py": (
        _f("silo_lets_all", "xsm:SiloPolicy._allowed",
           "current.is_privileged or one.is_privileged or two.is_privileged or one is two", "True",
           "SILO lets guests share with each other"),
        _f("silo_lets_ports", "xsm:SiloPolicy.evtchn_interdomain", "return 0 if self._allowed(src, src, dst) else -EPERM",
           "return 0", "SILO lets guests have event channels with each other"),
        _f("silo_lets_transfers", "xsm:SiloPolicy.grant_transfer", "return 0 if self._allowed(src, src, dst) else -EPERM",
           "return 0", "SILO lets guests give each other pages"),
        _f("silo_copy_by_caller", "xsm:SiloPolicy.grant_copy", "self._allowed(current, src, dst)",
           "self._allowed(current, current, current)", "SILO judges a copy by who asks for it"),
        _f("policy_any_model", "xsm:DummyPolicy.dm_priv", "src.target is dst", "True",
           "a device model serves any guest"),
        _f("policy_target_anybody", "xsm:DummyPolicy.target", "or src.is_privileged", "or True",
           "any guest does to others what only a control domain may"),
        _f("policy_store_anybody", "xsm:DummyPolicy.xs_priv", "if src.is_xenstore", "if True",
           "any guest asks what only XenStore's domain may"),
    ),
    "test_events_delivery.py": (
        _f("virq_lost", "events:EventChannels.raise_virq", "self.raised(number)", "pass",
           "a virtual interrupt is not delivered"),
        _f("virq_to_all", "events:EventChannels.raise_virq", " and port.virq == virq", "",
           "a virtual interrupt is delivered to the ports of all"),
        _f("virq_on_first_vcpu", "events:EventChannels.bind_virq", "virq=virq, vcpu=vcpu", "virq=virq",
           "a vCPU's interrupt comes to another one"),
        _f("masked_delivered", "events:EventChannels.take_pending", " and not self.is_masked(n)", "",
           "a masked event is delivered"),
    ),
    "test_batches.py": (
        _f("range_skips_one", "physmap:_range", "_PHYSMAP | i <<", "_PHYSMAP | i + 1 <<",
           "a range that is made again leaves out a page"),
        _f("batch_skips_one", "physmap:_batch", "_BATCH | i <<", "_BATCH | i + 1 <<",
           "a batch that is made again leaves out an element"),
        _f("resource_skips_one", "resources:acquire_resource", "done += len(frames)", "done += len(frames) + 1",
           "a frame of a resource is left out"),
        _f("transfer_skips_one", "hypercall:_transfer", "uop + i * 24, count - i)", "uop + (i + 1) * 24, count - i - 1)",
           "a batch of transfers that is made again leaves out a page"),
        _f("mmuext_forgets_done", "hypercall_mmu:do_mmuext_op", "_report(xen, vcpu, pdone, done, 0)\n", "pass\n",
           "what was done before a batch was cut short is not counted"),
    ),
}

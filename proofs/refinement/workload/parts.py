"""Grants of a part of a page while they are copied: which ones are, and what their owner writes meanwhile.

Not here: the copies (guests.py), and copies through transitive grants (passed_on.py).
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.proofs.refinement.lockstep.testbed import Guest
from bulkhead.proofs.refinement.workload.moves import Guests

PARTS = ((0, 512), (512, 512), (0, 2048), (1024, 2048))


def copied_by_reserved(domain: Domain) -> bool:
    """Is a part of a page copied by one of the reserved entries now, while no other entry is in use?"""
    active = domain.grant_table.active
    return any(a.pin and a.sub_page for a in active[: abi.NR_RESERVED_ENTRIES]) and not any(
        a.pin for a in active[abi.NR_RESERVED_ENTRIES :]
    )


def in_part(guests: Guests, guest: Guest) -> tuple[int, int] | None:
    """The grant whose part the guest is copying now, as (granter, reference)."""
    for d, other in guests.view.guests.items():
        for ref in guests.refs:
            if ref < other.domain.grant_table.nr_entries:
                act = other.domain.grant_table.active[ref]
                if act.pin and act.sub_page and act.domid == guest.domid:
                    return d, ref
    return None


def copy_parts(guests: Guests, user: Guest, vcpu: int) -> None:
    """A copy from a granted part of a page; while its pages are claimed, the owner may rewrite the entry to grant another
    part, and the user's other vCPU copies into it."""
    rng, view = guests.rng, guests.view
    owners = [g for g in view.guests.values() if g is not user and _running(g) and g.domain.grant_table.version == 2]
    if not owners:
        return
    owner, ref = owners[int(rng.random() * len(owners))], guests.ref()
    page = guests.page(owner)
    if not _grant_part(guests, owner, ref, user, page):
        return
    guests.call(user, vcpu, "copy", elements=[_element(guests, user, owner, ref, True)])
    own = [f for f in view.flights if f.guest is user]
    if len(own) != 1 or own[0].vcpu != vcpu:
        return
    while own[0] in view.flights and own[0].marker != "copy.claimed":
        guests.advance(own[0])
    if own[0] in view.flights and owner.domid in view.guests and _running(owner) and _running(user):
        if rng.random() < 0.8 and not _grant_part(guests, owner, ref, user, page):
            return
        guests.call(user, 1 - vcpu, "copy", elements=[_element(guests, user, owner, ref, False)])


def _running(guest: Guest) -> bool:
    domain = guest.domain
    return not (domain.is_dying or domain.pause_count or domain.crashed)


def _grant_part(guests: Guests, owner: Guest, ref: int, user: Guest, page: int) -> bool:
    """The owner grants the user a part of a page of its own."""
    table = owner.domain.grant_table
    if table.version == 1 or ref >= table.nr_entries or guests.view.changing(owner.domid, ref):
        return False
    if not guests.view.own_page(owner.domain, page):
        return False
    part = PARTS[int(guests.rng.random() * len(PARTS))]
    guests.write_entry(owner, ref, abi.GTF_PERMIT_ACCESS | abi.GTF_SUB_PAGE, user.domid, page, True, part)
    return True


def _element(guests: Guests, user: Guest, owner: Guest, ref: int, from_it: bool) -> dict[str, object]:
    """A copy between the granted part and a page of the user's own."""
    granted, own = (True, ref, owner.domid), (False, guests.page(user), abi.DOMID_SELF)
    src, dst = (granted, own) if from_it else (own, granted)
    return {
        **dict(zip(("src_ref", "src", "src_dom"), src, strict=True)),
        **dict(zip(("dst_ref", "dst", "dst_dom"), dst, strict=True)),
        "src_off": 8 * int(guests.rng.random() * 63),
        "dst_off": 1024 + 8 * int(guests.rng.random() * 60),
        "length": 64,
    }

"""Chooses what passes from one domain to the next: pages by transfer, to a guest that waits for them, and copies through
transitive grants: a guest lets another, or Dom0, copy through a grant that it has itself.

Random stores seldom build such a chain of three domains, so this move builds one: an owner's grant to a middle domain, the
middle domain's transitive entry, a copy through it. Entries in use are rewritten now and then, to stand for another grant.
Not here: what else guests do (guests.py).
"""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.lockstep.testbed import Guest, PvGuest, PvhGuest
from bulkhead.proofs.refinement.workload.moves import Guests
from bulkhead.proofs.refinement.workload.physmap import number_to_fill, numbers_of_grants


def copy_through(guests: Guests, user: Guest, vcpu: int) -> None:
    """A copy by a guest through another's transitive entry, which is written for it now; or such an entry for Dom0.

    Now and then the entry is rewritten while its pages are claimed, and the user's other vCPU copies through it.
    """
    rng, view = guests.rng, guests.view
    if user.domain.grant_table.version == 1 and rng.random() < 0.3:
        guests.version(user, vcpu)
        return
    middles = [g for g in view.guests.values() if g is not user and _running(g) and g.domain.grant_table.version == 2]
    if not middles:
        return
    between, ref = middles[int(rng.random() * len(middles))], guests.ref()
    to = 0 if rng.random() < 0.3 else user.domid
    if not _pass_on(guests, between, ref, to) or to == 0:
        return
    _copy(guests, user, vcpu, between, ref)
    own = [f for f in view.flights if f.guest is user]
    if rng.random() < 0.4 or len(own) != 1 or own[0].vcpu != vcpu:
        return
    while own[0] in view.flights and own[0].marker != "copy.claimed":
        guests.advance(own[0])
    if own[0] in view.flights and between.domid in view.guests and _running(between) and _running(user):
        if rng.random() < 0.8 and not _pass_on(guests, between, ref, to):
            return
        _copy(guests, user, 1 - vcpu, between, ref)


def _pass_on(guests: Guests, between: Guest, ref: int, to: int) -> bool:
    """The middle guest lets a domain copy through a grant that it has, or is made now."""
    rng, view = guests.rng, guests.view
    found = guests.grant_of(between.domid)
    if found is None or rng.random() < 0.2:
        found = _offer(guests, between) or found
    if found is None or view.changing(between.domid, ref):
        return False
    guests.pass_on(between, ref, rng.choice((3, 3, 3, 7)), to, *found)
    return True


def _copy(guests: Guests, user: Guest, vcpu: int, between: Guest, ref: int) -> None:
    """A copy with the entry on one side or on both."""
    rng = guests.rng
    if guests.view.names_special(between.domain, ref):
        return
    through = {"ref": True, "at": ref, "dom": between.domid}
    other = {"ref": False, "at": guests.page(user), "dom": abi.DOMID_SELF}
    sides = (through, other if rng.random() < 0.8 else through)
    src, dst = sides if rng.random() < 0.6 else sides[::-1]
    element = {
        "src_ref": src["ref"],
        "src": src["at"],
        "src_dom": src["dom"],
        "src_off": 8 * int(rng.random() * 63),
        "dst_ref": dst["ref"],
        "dst": dst["at"],
        "dst_dom": dst["dom"],
        "dst_off": 1024 + 8 * int(rng.random() * 60),
        "length": 64,
    }
    guests.call(user, vcpu, "copy", elements=[element])


def _running(guest: Guest) -> bool:
    domain = guest.domain
    return not (domain.is_dying or domain.pause_count or domain.crashed)


def _offer(guests: Guests, between: Guest) -> tuple[int, int] | None:
    """Another guest grants the middle one a page of its own, whole or a part, to read or to write."""
    rng, view = guests.rng, guests.view
    owners = [g for g in view.guests.values() if g is not between and _running(g)]
    if not owners:
        return None
    owner, ref = owners[int(rng.random() * len(owners))], guests.ref()
    table = owner.domain.grant_table
    if ref >= table.nr_entries or table.active[ref].pin or view.changing(owner.domid, ref):
        return None
    flags = rng.choice((1, 1, 5, 0x101))
    part = (512, 2048) if flags & abi.GTF_SUB_PAGE else (0, 0)
    guests.write_entry(owner, ref, flags, between.domid, guests.page(owner), True, part)
    return owner.domid, ref


def offer_page(guests: Guests, giver: Guest, vcpu: int) -> bool:
    """Another guest waits for a page of the giver's, which transfers one that nobody uses; False if there is no such. A PVH
    guest names a number for it."""
    rng, view = guests.rng, guests.view
    takers = [g for g in view.guests.values() if g is not giver and _running(g)]
    pages = [mfn for mfn in giver.pool if giver.domain.pages[mfn].count == 1 and not giver.domain.pages[mfn].tcount]
    if not takers or not pages or not isinstance(giver, PvGuest):
        return False
    with_grants: list[Guest] = [g for g in takers if isinstance(g, PvhGuest) and numbers_of_grants(g)]
    takers = with_grants if with_grants and rng.random() < 0.8 else takers
    taker, ref = takers[int(rng.random() * len(takers))], guests.ref()
    table = taker.domain.grant_table
    if not abi.NR_RESERVED_ENTRIES <= ref < table.nr_entries or table.active[ref].pin or view.changing(taker.domid, ref):
        return False
    bits = abi.GTF_READING | abi.GTF_WRITING
    if table.version == 1 and abi.HEADER.unpack_from(*table.header_at(ref))[0] & bits:
        return False  # in version 1 these are the bits of a transfer, too
    number = number_to_fill(rng, taker) if isinstance(taker, PvhGuest) else pages[0]
    guests.write_entry(taker, ref, abi.GTF_ACCEPT_TRANSFER, giver.domid, number, True)
    guests.call(giver, vcpu, "transfer", mfn=pages[0], dom=taker.domid, ref=ref)
    return True

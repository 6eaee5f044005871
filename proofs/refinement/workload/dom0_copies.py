"""Chooses segments for IOCTL_GNTDEV_GRANT_COPY of a Dom0 process: between grants and own pages, also across page ends."""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.dom0.copies import Segment, Side
from bulkhead.proofs.refinement.dom0.state import BUFFER, Proc
from bulkhead.proofs.refinement.workload.caller import Caller, offered, passed_on, special


def copy(d: Caller, proc: Proc) -> str:
    """Some segments; sometimes one among them is refused before any byte of it is copied."""
    fd, opened = d.fd_of(proc, "gntdev")
    if opened is None:
        return f"gntdev copy: {d.call(proc, 'gntdev_grant_copy', fd=fd, segments=[]).code}"
    rng = d.rng
    count = (1, 1, 1, 2, 2, 3, 9)[int(rng.random() * 7)]
    segments = [_segment(d, proc) for _ in range(count)]
    bad = int(rng.random() * count) if rng.random() < 0.15 else count
    if bad < count:
        segments[bad] = _refused(d, proc)
    code = d.call(proc, "gntdev_grant_copy", fd=fd, segments=segments).code
    return f"gntdev copy of {count}: {code}"


def _segment(d: Caller, proc: Proc) -> Segment:
    """Copies between grants, or between a grant and the process's own pages, also across a page end."""
    rng = d.rng
    which, length = rng.random(), (64, 64, 1, 200)[int(rng.random() * 4)]
    sides: list[Side] = []
    for n in range(2):
        if (which < 0.5 and n == 0) or (which > 0.4 and n == 1):
            dom, ref = _grant(d)
            sides.append((ref, n * 1024 + 8 * int(rng.random() * 60), dom))
        elif rng.random() < 0.5:  # around the end of the first page
            sides.append(proc.buffer + abi.PAGE_SIZE - int(rng.random() * (length + 1)))
        else:
            sides.append(proc.buffer + n * 1024 + 8 * int(rng.random() * 60))
    return sides[0], sides[1], length


def _refused(d: Caller, proc: Proc) -> Segment:
    """A segment that the driver refuses: without a grant, beyond a granted page, or with an invalid address."""
    dom, ref = _grant(d)
    x = d.rng.random()
    if x < 0.3:
        return proc.buffer, proc.buffer + 512, 16
    if x < 0.6:
        return (ref, abi.PAGE_SIZE - 8, dom), proc.buffer, 16
    nowhere = proc.buffer + BUFFER * abi.PAGE_SIZE + 0x40000000
    if x < 0.8:
        return nowhere, (ref, 0, dom), 16
    return (ref, 0, dom), nowhere, 16


def _grant(d: Caller) -> tuple[int, int]:
    """Domain and reference: usually an offer to Dom0, also of a dying domain; or beyond a table's end."""
    x = d.rng.random()
    held = [
        grant for r in d.view.maps if r.gmap.in_use and not special(d, r) for grant in r.grants if grant[0] in d.view.domains
    ]
    left = [grant for grant in held if d.view.domains[grant[0]].is_dying]  # the granter goes while its page is mapped
    if left and x < 0.2:
        return left[int(x * 5 * len(left))]
    if held and x < 0.25:
        return held[int(x * 4 * len(held))]
    offers = []
    domains = [(n, domain) for n, domain in d.view.domains.items() if n < d.view.size.nobody]
    for domid, domain in domains:
        table = domain.grant_table
        for ref in d.view.size.refs[2:]:
            if (
                ref < table.nr_entries
                and (offered(table, ref) or passed_on(table, ref))
                and not d.view.names_special(domain, ref)
            ):
                offers.append((domid, ref))
    if offers and x < 0.9:
        return offers[int(x / 0.9 * len(offers))]
    return (99, 8) if x < 0.95 else (domains[int((x - 0.95) * 20 * len(domains))][0], d.view.size.refs[-1])


MOVES = ((12, copy),)

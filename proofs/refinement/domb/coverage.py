"""Which (rule, outcome) pairs of DomB, XenStore and Dom0's processes a campaign reached, which it never can, and why."""

from __future__ import annotations

from collections.abc import Iterable

from bulkhead.proofs.refinement.coverage import CANNOT_HAPPEN as ON_MONOLITHIC
from bulkhead.proofs.refinement.domb.world import Rules

OF_PROCESSES = ("gntdev_", "gntalloc_", "evtchn_", "open_", "close", "fork", "setuid", "exit", "reap", "release_file")
PREFIXES = (
    "build_",
    "take_",
    "channel_",
    "hang_up",
    "destroy_abandoned",
    "guest_told",
    "proxy_open",
    "domb_",
    "write_ring",
    "xs_",
    *OF_PROCESSES,
)
DOMB = "DomB names itself: it exists, runs, and has its privilege from boot to its end"
GUEST = "the guest under construction exists, and is no service (theorem construction_is_undisturbed)"
ROOM = "the world has elements enough; the implementation sets no such limit"
KNOWN = "who is asked for was built, so that the domain is there and no service"
ORDER = "the code does it in its order: nothing else comes to this step"
PORTS = "a domain has 1023 ports or more, of which the rules' world has a few; `monolithic` has domains with fewer"
POLICY = "the default policy lets all domains share; `monolithic` has pairs of domains that may not"
ONE_LAYOUT = "guests here keep version 1 of the grant table, which grants whole pages; `monolithic` compares both versions"
ONE_NUMBER = "gntdev and gntalloc have one number for it, evtchn knows no such call, and there is no privcmd"
SEALED = "DomB has let go of everything first; a fault that leaves something is a mismatch"

CANNOT_HAPPEN: dict[str, str] = {
    **{pair: reason for pair, reason in ON_MONOLITHIC.items() if pair.startswith(OF_PROCESSES) and "privcmd" not in pair},
    "evtchn_alloc_unbound: ENOSPC": PORTS,
    "evtchn_bind_interdomain: ENOSPC": PORTS,
    "evtchn_bind_interdomain: EPERM": POLICY,
    "evtchn_bind: ENOSPC": PORTS,
    "evtchn_bind: EPERM": POLICY,
    "evtchn_bind_unbound: ENOSPC": PORTS,
    "evtchn_bind_unbound: EPERM": POLICY,
    "gntdev_set_unmap_notify: ENOTTY": ONE_NUMBER,
    "gntalloc_set_unmap_notify: ENOTTY": ONE_NUMBER,
    "gntdev_copy.element: GNTST_permission_denied": POLICY,
    "gntdev_copy.move: GNTST_general_error": ONE_LAYOUT,
    "channel_open: EBUSY": ORDER,
    "channel_open: ESRCH": DOMB,
    "channel_open: EPERM": DOMB,
    "channel_open: EINVAL": DOMB,
    "channel_open: ENOSPC": "DomB has at most two ports, of 4095",
    "channel_close: EINVAL": "its port is open until DomB closes it",
    "domb_notes: EFAULT": "arguments of hypercalls lie in pages that DomB has not granted",
    "take_create.act: EAGAIN": ROOM,
    "take_file_answer.act: EAGAIN": ROOM,
    "take_file_data.act: EAGAIN": ROOM,
    "take_file_data.act: ENOMEM": ROOM,
    "build_create: EAGAIN": "all that was read is checked before a domain is asked for",
    "build_create: EPERM": DOMB,
    "build_port: EINVAL": "DomB asks for ports that wait for Dom0, of a guest that lives",
    "build_port: ESRCH": GUEST,
    "build_port: EPERM": DOMB,
    "build_port: ENOSPC": "a new guest has all its ports free",
    "build_populate: EPERM": DOMB,
    "build_populate: ESRCH": GUEST,
    "build_populate: EINVAL": GUEST,
    "build_map: ESRCH": GUEST,
    "build_map: EPERM": DOMB,
    "build_map: ENOMEM": ROOM,
    "build_map: EINVAL": "guests that DomB builds are paravirtual: their pages need no numbers",
    "build_map: EBUSY": "the guest's pages are its own, and none is a page table before all are written",
    "build_load: EINVAL": "only what was checked is loaded",
    "build_load: EFAULT": ORDER,
    "build_make: EFAULT": ORDER,
    "build_clear: EFAULT": ORDER,
    "build_view: EPERM": DOMB,
    "build_seed: EFAULT": ORDER,
    "build_seed: EINVAL": "the builder looks first; what it would refuse is no layout that it makes",
    "build_unmap: EINVAL": ORDER,
    "build_seal: EBUSY": SEALED,
    "build_undo: EBUSY": SEALED,
    "build_undo: EPERM": DOMB,
    "build_undo: ESRCH": GUEST,
    "build_undo: EINVAL": GUEST,
    "take_pause.act: EINVAL": "a guest that is known does not die: its record goes in the step that destroys it",
    "take_pause.act: EPERM": DOMB,
    "take_unpause.act: EPERM": DOMB,
    "take_destroy.act: EPERM": DOMB,
    "take_destroy.act: EINVAL": KNOWN,
    "xs_introduce: ENOMEM": ROOM,
    "xs_add_perm: EACCES": "the rest of a list follows its first entry, and only an owner comes so far",
    "destroy_abandoned: ESRCH": KNOWN,
    "destroy_abandoned: EPERM": DOMB,
    "destroy_abandoned: EINVAL": KNOWN,
}


def pairs(rules: Rules) -> tuple[str, ...]:
    """The pairs of DomB's own rules, of XenStore's, and of those of Dom0's processes."""
    return tuple(pair for pair in rules.outcomes if pair.startswith(PREFIXES))


def missing(rules: Rules, reached: Iterable[str]) -> tuple[str, ...]:
    """Those that were not reached."""
    known = set(reached)
    return tuple(pair for pair in pairs(rules) if pair not in known)


def contradicted(reached: Iterable[str]) -> tuple[str, ...]:
    """Pairs that were reached although they are impossible."""
    return tuple(sorted(set(reached) & set(CANNOT_HAPPEN)))


def lines(rules: Rules, reached: Iterable[str]) -> list[str]:
    """A readable summary: open pairs, then impossible ones by reason."""
    left = missing(rules, reached)
    unknown = [pair for pair in left if pair not in CANNOT_HAPPEN]
    total = len(pairs(rules))
    explained = len(left) - len(unknown)
    out = [
        f"{total - len(left)} of {total} (rule, outcome) pairs of DomB, XenStore and Dom0's processes reached, "
        f"{explained} cannot happen, "
        f"{len(unknown)} never reached{':' if unknown else '.'}",
        *(f"  {pair}" for pair in unknown),
    ]
    reasons: dict[str, list[str]] = {}
    for pair in left:
        if pair in CANNOT_HAPPEN:
            reasons.setdefault(CANNOT_HAPPEN[pair], []).append(pair)
    return out + [f"  {', '.join(found)}: {reason}" for reason, found in reasons.items()]

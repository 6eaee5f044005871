"""Chooses what a guest does with itself alone: its own ports, and pins of its own pages, good and refused ones.

All is as before afterwards, and the choices come from a stream of their own, so the other moves of a seed stay the same.
Not here: what the calls are, and their answers (lockstep/by_itself.py).
"""

from __future__ import annotations

import random

from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.calls import Target, guest_call
from bulkhead.proofs.refinement.lockstep.testbed import Guest, PvGuest
from bulkhead.proofs.refinement.view import View

OFTEN = 0.03  # of a guest's moves
LEVELS = (1, 1, 1, 2, 2, 3)


def now_and_then(rng: random.Random, view: View, target: Target, guest: Guest, vcpu: int) -> None:
    """Before a move of a guest: one of these, by chance."""
    x = rng.random()
    if x > OFTEN:
        return
    if x < OFTEN / 3 or not isinstance(guest, PvGuest) or not guest.pool:
        virq = rng.choice((*abi.PER_VCPU_VIRQS, 3, abi.NR_VIRQS - 1, abi.NR_VIRQS))
        target.carry_out(guest_call(guest.domid, vcpu, "own_ports", virq=virq, on=rng.choice((0, 0, 1, 1, 2))))
        return
    level = rng.choice(LEVELS)
    foreign = guest.window.mfn if rng.random() < 0.3 else view.first_mfn + int(rng.random() * view.size.heap)
    mfn = rng.choice(guest.pool)
    target.carry_out(guest_call(guest.domid, vcpu, "pin_for_a_moment", mfn=mfn, level=level, foreign=foreign))

"""What tools, daemons and DomB say in the log of requests: who says it, to whom. What people read must name the right ones.

Not here: the text of each line (tests/impl/test_boot.py has a whole life of a guest).
"""

from __future__ import annotations

from typing import Final

from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

WHOM: Final = {
    "xl": ("Dom0", "DomB", "xenstored", "xenconsoled"),
    "DomB": ("Xen", "file proxy", "its client"),
    "xenstored": ("Xen",),
    "xenconsoled": ("Xen",),
}


def heard(who: str, whom: str, what: str) -> None:
    """Somebody says something; Mismatch if it is none of theirs to say."""
    if whom not in WHOM.get(who, ()) or not what:
        raise Mismatch(f"the log has a line of {who!r} to {whom!r}: {what!r}")


__all__ = ["heard"]

"""The rules of `gt.rules` written by hand in Python, for comparison with the executable model made from them.

Every operation takes its arguments as indices and says whether it did something. State is flat lists and bit masks, as a
person who wanted speed would write it; the random walk draws operations and arguments just as `model/caller.py` does.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from bulkhead.proofs.theorems.random_walk import EPISODE

DOMAINS, FRAMES, REFS, PROCESSES = 3, 4, 3, 1
ROOT = 0


class HandWritten:
    """One state of the small grant-table system, and its thirteen operations."""

    def __init__(self) -> None:
        self.alive = [d == ROOT for d in range(DOMAINS)]
        self.paused = [False] * DOMAINS
        self.built = [False] * DOMAINS
        self.owner = [-1] * FRAMES
        self.foreign = [False] * FRAMES
        self.grant: list[tuple[int, int] | None] = [None] * (DOMAINS * REFS)  # (grantee, frame)
        self.readonly = [False] * (DOMAINS * REFS)
        self.maps: dict[tuple[int, int, int, int], bool] = {}  # (process, domain, ref, frame) -> writable
        self.operations: list[tuple[Callable[..., bool], tuple[int, ...]]] = [
            (self.create, (DOMAINS,)),
            (self.alloc, (FRAMES, DOMAINS)),
            (self.finish, (DOMAINS,)),
            (self.pause, (DOMAINS,)),
            (self.unpause, (DOMAINS,)),
            (self.permit, (DOMAINS, REFS, DOMAINS, FRAMES, 2)),
            (self.map, (PROCESSES, DOMAINS, REFS, FRAMES)),
            (self.map_rw, (PROCESSES, DOMAINS, REFS, FRAMES)),
            (self.unmap, (PROCESSES, DOMAINS, REFS, FRAMES)),
            (self.revoke, (DOMAINS, REFS)),
            (self.foreign_map, (DOMAINS, FRAMES)),
            (self.foreign_unmap, (FRAMES,)),
            (self.destroy, (DOMAINS,)),
        ]

    def create(self, d: int) -> bool:
        if self.alive[d]:
            return False
        self.alive[d] = self.paused[d] = self.built[d] = True
        return True

    def alloc(self, f: int, d: int) -> bool:
        if not self.alive[d] or self.owner[f] >= 0 or self.foreign[f]:
            return False
        self.owner[f] = d
        return True

    def _exposed(self, d: int) -> bool:
        return any(o == d and b for o, b in zip(self.owner, self.foreign, strict=True))

    def finish(self, d: int) -> bool:
        if not (self.alive[d] and self.built[d]) or self._exposed(d):
            return False
        self.paused[d] = self.built[d] = False
        return True

    def pause(self, d: int) -> bool:
        if not self.alive[d] or d == ROOT or self.built[d]:
            return False
        self.paused[d] = True
        return True

    def unpause(self, d: int) -> bool:
        if not self.alive[d] or self.built[d]:
            return False
        self.paused[d] = False
        return True

    def permit(self, d: int, r: int, e: int, f: int, ro: int) -> bool:
        slot = d * REFS + r
        if not self.alive[d] or self.paused[d] or self.owner[f] != d or self.grant[slot] is not None:
            return False
        self.grant[slot] = (e, f)
        self.readonly[slot] = bool(ro)
        return True

    def map(self, p: int, d: int, r: int, f: int) -> bool:
        if not self.alive[d] or self.grant[d * REFS + r] != (ROOT, f):
            return False
        self.maps.setdefault((p, d, r, f), False)
        return True

    def map_rw(self, p: int, d: int, r: int, f: int) -> bool:
        if not self.alive[d] or self.grant[d * REFS + r] != (ROOT, f) or self.readonly[d * REFS + r]:
            return False
        self.maps[(p, d, r, f)] = True
        return True

    def unmap(self, p: int, d: int, r: int, f: int) -> bool:
        return self.maps.pop((p, d, r, f), None) is not None

    def revoke(self, d: int, r: int) -> bool:
        if any(m[1] == d and m[2] == r for m in self.maps):
            return False
        self.grant[d * REFS + r] = None
        return True

    def foreign_map(self, d: int, f: int) -> bool:
        if self.owner[f] != d or not self.paused[d] or not self.built[d]:
            return False
        self.foreign[f] = True
        return True

    def foreign_unmap(self, f: int) -> bool:
        if not self.foreign[f]:
            return False
        self.foreign[f] = False
        return True

    def destroy(self, d: int) -> bool:
        if not self.alive[d] or d == ROOT or self._exposed(d) or any(self.owner[m[3]] == d for m in self.maps):
            return False
        self.alive[d] = self.paused[d] = self.built[d] = False
        self.owner = [-1 if o == d else o for o in self.owner]
        self.grant[d * REFS : (d + 1) * REFS] = [None] * REFS
        return True


def walk(seed: int, steps: int) -> int:
    """A random walk, begun again after every `EPISODE` steps as the model's is; gives how many steps changed the state."""
    draw = random.Random(seed).random
    taken = 0
    for done in range(0, steps, EPISODE):
        operations = HandWritten().operations
        count = len(operations)
        for _ in range(min(EPISODE, steps - done)):
            operation, sizes = operations[int(draw() * count)]
            taken += operation(*[int(draw() * n) for n in sizes])
    return taken

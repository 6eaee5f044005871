"""`python -m tests.xen.corners FILE [GROUP ...]`: rare calls, each written down, made on real Xen, compared and recorded.

Contents: the list of groups, which reach the edges that seeded campaigns (workload/) seldom or never reach, and the
command. Not here: the comparison, which is that of campaigns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.xen.compare import compare
from tests.xen.corners.bent import bent
from tests.xen.corners.control import interrupts, kernels, models, parameters, platform, processor, sysctls
from tests.xen.corners.descriptors import descriptors
from tests.xen.corners.devices import private_grants, privcmd, rings
from tests.xen.corners.domains import domains, zombies
from tests.xen.corners.ends import ends
from tests.xen.corners.files import shared
from tests.xen.corners.grants import grants
from tests.xen.corners.initialised import initialised
from tests.xen.corners.left import left
from tests.xen.corners.memory import claims, exchanges, memory_maps, reservations
from tests.xen.corners.models import through_privcmd
from tests.xen.corners.neighbours import neighbours
from tests.xen.corners.physmap import log_dirty, physmap
from tests.xen.corners.pools import pools
from tests.xen.corners.reach import advised, copied, gone, held, reached, spliced
from tests.xen.corners.survivors import survivors
from tests.xen.corners.tables import flushes, page_types
from tests.xen.corners.toolstack import firmware, io_memory, of_domains, of_the_machine, resumed, sweep, values, watchers
from tests.xen.corners.translated import given, translated
from tests.xen.corners.vcpus import vcpus
from tests.xen.play import play
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.protocol import Call, write_recording
from tests.xen.rig import images
from tests.xen.workload.script import Script

CORNERS: Final[tuple[Callable[[Script], None], ...]] = (
    memory_maps,
    claims,
    exchanges,
    reservations,
    physmap,
    page_types,
    flushes,
    grants,
    domains,
    log_dirty,
    zombies,
    privcmd,
    private_grants,
    rings,
    parameters,
    sysctls,
    platform,
    kernels,
    processor,
    interrupts,
    models,
    vcpus,
    shared,
    sweep,
    of_domains,
    io_memory,
    resumed,
    of_the_machine,
    firmware,
    values,
    survivors,
    left,
    translated,
    through_privcmd,
    watchers,
    given,
    initialised,
    pools,
    advised,
    held,
    gone,
    reached,
    spliced,
    copied,
    descriptors,
    neighbours,
    bent,
    ends,
)


def script(*only: str) -> list[Call]:
    """All calls, or those of some groups."""
    s = Script(0, 0)
    s.note = "start"
    for name in ("A", "B", "C"):
        s.make(name)
    for name in ("H", "K"):
        s.make(name, translated=True)
    for group in CORNERS:
        if not only or group.__name__ in only:
            s.note = group.__name__
            group(s)
    s.note = "end"
    for name in ("A", "B", "C", "H", "K"):
        s.remove(name)
    return s.calls


def main(words: Sequence[str]) -> int:
    """0 without a difference, 1 with some, 2 without the rig or on bad use."""
    names = [group.__name__ for group in CORNERS]
    if not words or any(word not in names for word in words[1:]):
        print(f"usage: python -m tests.xen.corners FILE [GROUP ...], groups: {' '.join(names)}", file=sys.stderr)
        return 2
    try:
        run = play(images(), script(*words[1:]))
    except Unavailable as exc:
        print(f"tests.xen.corners: real Xen cannot be run here: {exc}.", file=sys.stderr)
        return 2
    except RigFailed as exc:
        print(f"tests.xen.corners: {exc.text(0)}", file=sys.stderr)
        return 2
    write_recording(Path(words[0]), "xen", 0, run.lines)
    found = list(compare(run.lines))
    print("\n".join(each.text() for each in found))
    print(f"{len(run.lines)} calls, {len(found)} differences" + (f"; never returned: {run.stuck}" if run.stuck else ""))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

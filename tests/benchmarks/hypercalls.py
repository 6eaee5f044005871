"""Grant hypercalls per second, and growth of memory: `python -m tests.benchmarks.hypercalls`.

One guest grants pages, another maps, copies and unmaps them, through argument bytes in guest memory as a real caller does.
The peak of resident memory is read after a tenth of the calls and at the end; the difference is the growth.
"""

from __future__ import annotations

import argparse
import resource
import time

from bulkhead.impl.xen import abi
from tests.impl.support import grant, machine, map_ref, unmap


def run(calls: int) -> tuple[float, int]:
    """Calls per second, and the growth of peak memory in KiB after the first tenth of the calls."""
    rig = machine("A", "B")
    for ref in range(8, 12):
        grant(rig, "A", ref, "B", ref - 8)
    copy = abi.COPY.pack(9, rig.domid("A"), 0, 0, rig.mfn("B/1"), abi.DOMID_SELF, 0, 0, 64, abi.GNTCOPY_SOURCE_GREF, 0, 0)
    early = made = 0
    began = time.perf_counter()
    while made < calls:
        status, handle = map_ref(rig, "B", "A", 8 + made % 4, made % 8)
        assert status == 0
        rig.grant_op("B", abi.GNTTABOP_COPY, copy)
        assert unmap(rig, "B", handle, made % 8) == 0
        made += 3
        if not early and made >= calls // 10:
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - began
    return made / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early


def main() -> None:
    """Print both numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000, metavar="N")
    calls = parser.parse_args().calls
    speed, grown = run(calls)
    print(f"{calls} grant hypercalls: {speed:,.0f} a second; memory grew by {grown} KiB after the first tenth.")


if __name__ == "__main__":
    main()

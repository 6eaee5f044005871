"""Coverage-guided fuzzing of the hypervisor: `python -m tests.fuzz.hypercalls -max_total_time=60` (needs atheris).

One input is a program of hostile calls: the calling domain, the hypercall, its registers and the bytes it points to,
and sometimes a store to a grant table. For every input, a call returns a number and never raises a Python exception, the
counters are consistent after each, and after all guests are destroyed every frame is free. libFuzzer keeps inputs that reach
new code of `impl/`; a failing input is written to a file, which can be passed as an argument to run it again.
"""

from __future__ import annotations

import sys

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.guest_access import write
from bulkhead.impl.xen.hypercall import TABLE
from bulkhead.impl.xen.machine import Livelock, run
from tests.impl.support import check_counts, check_no_leak, machine

NUMBERS = sorted(TABLE)
CALLS = 40  # at most, from one input


class Bytes:
    """Reads the input from its front; zeros at its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int) -> bytes:
        out = self.data[self.at : self.at + count]
        self.at += count
        return out + bytes(count - len(out))

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")


def program(data: bytes) -> int:
    """Run one input; returns the number of calls made. Raises AssertionError when an invariant of the hypervisor fails."""
    given = Bytes(data)
    rig = machine()
    free = rig.xen.frames.free_count
    for name in "AB":
        rig.make(name)
    made = 0
    while given.left() > 0 and made < CALLS:
        kind = given.number(1)
        name = "AB"[kind & 1]
        agent = rig.agents[name]
        if kind & 6 == 6:  # the guest writes an entry of its own table
            table = agent.domain.grant_table
            page, offset = table.header_at(8 + given.number(1) % 4)
            page[offset : offset + 8] = given.take(4) + agent.layout.pages[given.number(1) % 8].mfn.to_bytes(4, "little")
            continue
        number = abi.HYPERVISOR_GRANT_TABLE_OP if kind & 8 else NUMBERS[given.number(1) % len(NUMBERS)]
        write(rig.xen, agent.vcpu, agent.arg, given.take(64))
        registers = [given.number(1) % 16, agent.arg, given.number(1) % 3, given.number(2), given.number(1)]
        if kind & 16:
            registers[0], registers[1] = agent.arg, given.number(8)
        try:
            result = run(rig.xen.hypercall(agent.vcpu, number, *registers), 5_000)
        except Livelock:
            result = 0
        assert isinstance(result, int)
        check_counts(rig.xen)
        made += 1
    for name in "AB":
        rig.remove(name)
    check_no_leak(rig, free)
    return made


def main() -> None:
    """Fuzz until libFuzzer's own limits."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, lambda data: program(data) and 0)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The control interfaces by Dom0: domctl, sysctl, platform_op and hvm_op in any order, on guests that live and work.

Contents: rows of toolstack.rows, also with values of each other's; parameters of translated guests; operations of device
models. Not here: rows that only a processor or the host's hardware could answer, and those that stop the machine.
"""

from __future__ import annotations

from typing import Final

from tests.xen.workload.rows import Row, mixed, rows, values
from tests.xen.workload.script import DOMCTL, NOBODY, NOWHERE, Script

PLATFORM_OP, SYSCTL, HVM_OP, DM_OP = 7, 35, 34, 41
PLATFORM_VERSION: Final = "0x03000001"
# What is asked after a domctl that changes it: the command, words, and what is read.
AFTERWARDS: Final = {
    9: (25, "20:4:3,24:8:arg+512,32:4:64,40:8:arg+520,48:4:64", "hard:512:8,soft:520:8"),
    42: (43, "16:4:0", "c0:16:8,c1:24:8,c2:32:8,c3:40:8,c4:48:8,c5:56:8,c6:64:8,c7:72:8"),
    60: (59, "", "mode:16:4,times:24:4"),
    68: (69, "16:8:arg+512,24:4:64", "nodes:512:8"),
    86: (85, "", "size:16:8"),
}
DOMCTLS: Final = rows("domctl")
SYSCTLS: Final = rows("sysctl")
PLATFORM: Final = rows("platform")
UNMADE: Final = "$two"  # a domain with two vCPUs that never runs
MADE: Final = "36:4:0,44:4:2,48:4:1023,52:4:8,56:4:64,60:4:2"
# Mixed rows of these would ask for what only a processor or the host's hardware has, or (56, on a PV guest) end Xen itself.
AS_WRITTEN: Final = frozenset({33, 34, 55, 56, 62, 63, 72, 73, 82, 83})
SYSCTLS_AS_WRITTEN: Final = frozenset({1, 2, 7, 9, 14, 26, 29})
DOMAINS_OF_POOL: Final = ",ndom:28:4"  # a destroyed domain is counted for some moments more
KILOHERTZ: Final = ",p6:32:4"  # as measured
PARAMETERS: Final = 39
# A parameter that makes a guest sleep, which needs a processor's state (14), and those that wake emulated devices.
NOT_SET: Final = frozenset({14})
PARAMETER_VALUES: Final = (0, 1, 2, 3, 5, 8, 60, 64, 65, 0x1FFF, 0x2000, "0xffffffff", "0x6700000005", "0x6800000005")
# Frames of rings that a domctl would map, if they were there.
RINGS: Final = frozenset({27, 28, 29})
NO_FRAMES: Final = (0, 0, 5000, 0x2000, "0xffffffff", "0x800000000000")
MODEL_SIZES: Final = (0, 7, 8, 9, 10, 11, 12, 14, 16, 24, 31, 32, 48)


def _domctl(s: Script, command: int, dom: str, words: str = "", reads: str = "", by: str = "d0") -> None:
    s.hypercall(by, DOMCTL, f"0:4:{command},4:4:0x15,8:2:{dom}" + ("," + words if words else ""), reads, a1="arg")


def _words(s: Script, known: tuple[Row, ...], row: Row, as_written: frozenset[int]) -> str:
    if row.command in as_written or s.chance(0.4):
        return row.words
    return mixed(s.rng, row, values(known, row.command))


def _one(s: Script, row: Row, name: str) -> None:
    known = tuple(each for each in DOMCTLS if name in each.domains)
    _domctl(s, row.command, name, _words(s, known, row, AS_WRITTEN), row.reads)
    if row.command in AFTERWARDS:
        command, words, reads = AFTERWARDS[row.command]
        _domctl(s, command, name, words, reads)


def of_guests(s: Script) -> None:
    """A domctl on a guest; now and then by a guest, or on nobody."""
    row = s.pick(DOMCTLS)
    name = s.pick(row.domains)
    alike = s.agents if name in s.agents or name == "A" else s.still() if name in ("H", "K") else ()
    if name == UNMADE:
        return of_new(s)
    if s.chance(0.05):
        _domctl(s, row.command, s.pick((NOBODY, "SELF")), row.words)
    elif s.chance(0.05):
        _domctl(s, row.command, s.guest(), row.words, by=s.agent())
    else:
        _one(s, row, name)
        if alike and s.chance(0.3):
            _domctl(s, row.command, s.pick(alike) if row.command not in AS_WRITTEN else name, row.words, row.reads)


def of_new(s: Script) -> None:
    """A domain of two vCPUs that never runs: made, set up in several ways, and destroyed."""
    _domctl(s, 1, "0", MADE, "two:8:2:V")
    _domctl(s, 15, UNMADE, "16:4:2")
    mine = [row for row in DOMCTLS if UNMADE in row.domains]
    for _ in range(s.rng.randrange(1, 5)):
        _one(s, s.pick(mine), UNMADE)
    _domctl(s, 5, UNMADE, "", "flags:20:4,on:80:4,last:84:4")
    _domctl(s, 2, UNMADE)


def of_the_machine(s: Script) -> None:
    """sysctl; now and then by a guest, with another version, or from nowhere."""
    row = s.pick(SYSCTLS)
    by = s.weighted((94, "d0"), (6, s.agent()))
    version = s.weighted((96, "0x15"), (4, "0x14"))
    words = _words(s, SYSCTLS, row, SYSCTLS_AS_WRITTEN)
    reads = row.reads.replace(DOMAINS_OF_POOL, "").replace(KILOHERTZ, "")
    place = s.weighted((97, "arg"), (3, s.pick(NOWHERE)))
    s.hypercall(by, SYSCTL, f"0:4:{row.command},4:4:{version}" + ("," + words if words else ""), reads, a1=place)


def firmware(s: Script) -> None:
    """platform_op as its rows have it."""
    row = s.pick(PLATFORM)
    by = s.weighted((94, "d0"), (6, s.agent()))
    version = s.weighted((96, PLATFORM_VERSION), (4, "0x03000000"))
    place = s.weighted((97, "arg"), (3, s.pick(NOWHERE)))
    words = f"0:4:{row.command},4:4:{version}" + ("," + row.words if row.words else "")
    s.hypercall(by, PLATFORM_OP, words, row.reads, a1=place)


def parameters(s: Script) -> None:
    """hvm_op: a parameter is set and read again, of translated guests, of others and of nobody."""
    name = s.weighted((80, s.pick(s.still())), (8, s.agent()), (6, NOBODY), (6, "SELF")) if s.translated else NOBODY
    by = s.weighted((92, "d0"), (8, s.agent()))
    index = s.weighted((96, s.rng.randrange(PARAMETERS)), (4, s.pick((39, 40, "0xffffffff"))))
    if index not in NOT_SET:
        value = s.pick(NO_FRAMES if index in RINGS else PARAMETER_VALUES)
        s.hypercall(by, HVM_OP, f"0:2:{name},4:4:{index},8:8:{value}", a1=0, a2="arg")
    s.hypercall("d0", HVM_OP, f"0:2:{name},4:4:{index},8:8:0x7777", "v:8:8", a1=1, a2="arg")
    if s.chance(0.2):
        s.hypercall(by, HVM_OP, f"0:2:{name},8:8:{s.pick((0, 5, 63, 64, 95, 5000))}", "t:2:2", a1=15, a2="arg")


def models(s: Script) -> None:
    """dm_op: buffers, sizes and padding of all operations, and the two that need no device model."""
    name = (
        s.weighted((70, s.pick(s.still())), (10, s.agent()), (10, NOBODY), (5, "SELF"), (5, "d0")) if s.translated else "A"
    )
    by = s.weighted((90, "d0"), (10, s.agent()))
    count = s.weighted((80, 1), (20, s.pick((0, 2, 3, "0xffffffff", "0x100000001"))))
    if s.chance(0.4):
        command, size, pad = 20, s.pick((8, 11, 12, 13, 48)), s.weighted((85, 0), (15, 1))
    else:
        command, size, pad = s.rng.randrange(25), s.pick(MODEL_SIZES), 1
    at = s.weighted((92, "arg+512"), (8, s.pick(NOWHERE)))
    words = f"0:8:{at},8:8:{size},512:4:{command},516:4:{pad},520:4:77"
    s.hypercall(by, DM_OP, words, "a:520:4", a1=name, a2=count, a3=s.weighted((95, "arg"), (5, s.pick(NOWHERE))))


STEPS = ((40, of_guests), (6, of_new), (24, of_the_machine), (8, firmware), (12, parameters), (10, models))

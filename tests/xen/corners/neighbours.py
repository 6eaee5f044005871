"""Neighbours of the rows of the control interfaces: each number of a call one less, one more, and the largest of its width.

Limits of the implementation are constants, and a limit that is off by one answers only the number beside it differently.
Contents: the neighbours of the rows of workload/toolstack.rows; the rows in a struct whose other bytes are set, where
padding and words that are left alone show; and calls that are wrong in two ways, whose answer tells which is looked at
first. Not here: the rows as they are (toolstack.py), and neighbours of rows that ask for
what only hardware has (`AS_WRITTEN` there).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.xen.corners.forms import UNMAPPED, domctl
from tests.xen.workload.rows import Row, rows
from tests.xen.workload.script import NOBODY, Script
from tests.xen.workload.toolstack import AFTERWARDS, AS_WRITTEN, KILOHERTZ, MADE, SYSCTLS_AS_WRITTEN

# Words, or all of a place, whose neighbours only real Xen offers (I/O memory in maps, more pools, patches), or whose
# answer the machine's size or the moment makes (a pool of all memory, a list that preemption cuts).
KEPT: Final = {
    ("domctl", 39): ("24:8:0xfee00",),
    ("sysctl", 18): ("8:4",),
    ("sysctl", 27): ("8:4",),
    ("domctl", 10): ("24:4",),
    ("sysctl", 22): ("8:4",),
}
FILLING: Final = "0x33"
FILLED_PLATFORM: Final = (48, 55, 62)  # of those that change nothing but the time of day
ALIAS: Final = "0x1000000000000"
# How long a processor idled, and the same list.
NOT_FILLED: Final = frozenset({(10, "8:4:34,12:4:0"), (22, "16:8:arg+512,24:8:arg+1024")})
HVM_OP, SET_PARAM, GET_PARAM = 34, 0, 1
# Records of traces, types of pages, and parameters that have a largest value.
HVM_ROWS: Final = (
    (11, "0:2:0xfff,2:2:28"),
    (11, "0:2:0x10,2:2:16"),
    (15, "0:2:H,8:8:63"),
    (GET_PARAM, "0:2:H,4:4:38"),
    *(
        (SET_PARAM, f"0:2:H,4:4:{index},8:8:{most}")
        for index, most in ((9, 0x1FFF), (10, 3), (15, 0xFFFFFFFF), (31, 5), (33, 64), (35, 3), (36, 8), (37, 0x6800001000))
    ),
)
POOL: Final = ",ndom:28:4"  # a destroyed domain is counted for some moments more


def numbers(words: str, kept: tuple[str, ...] = ()) -> Iterator[tuple[str, str, int]]:
    """Each word of a call that is a plain number of at most eight bytes: the word, its place, its value."""
    for word in words.split(",") if words else ():
        offset, size, value, *repeat = word.split(":")
        if repeat or int(size) > 8 or f"{offset}:{size}" in kept or word in kept:
            continue
        try:
            yield word, f"{offset}:{size}", int(value, 0) & ((1 << 8 * int(size)) - 1)
        except ValueError:
            continue


def beside(words: str, kept: tuple[str, ...] = ()) -> Iterator[str]:
    """The words with one number replaced: by one less, one more, and the largest of its width; an address (or a frame) by
    one that differs only in a bit that translation does not look at."""
    for word, place, value in numbers(words, kept):
        most = (1 << 8 * int(place.partition(":")[2])) - 1
        for other in sorted({value - 1 & most, value + 1 & most, most} - {value}):
            yield words.replace(word, f"{place}:{other:#x}", 1)
    for word in words.split(",") if words else ():
        offset, size, named, *repeat = word.split(":")
        if size == "8" and not repeat and named[0].isalpha():
            yield words.replace(word, f"{offset}:{size}:{named}+{ALIAS}", 1)


def _fresh(known: tuple[Row, ...], interface: str, as_written: frozenset[int]) -> Iterator[tuple[Row, str]]:
    """Neighbours of all rows, without those that are rows themselves, each once for a command and its domains."""
    done = {(row.command, row.domains, row.words) for row in known}
    for row in known:
        for words in () if row.command in as_written else beside(row.words, KEPT.get((interface, row.command), ())):
            if (row.command, row.domains, words) not in done:
                done.add((row.command, row.domains, words))
                yield row, words


def of_domctls(s: Script) -> None:
    """Settings of domains, asked again after each change; `$two` is one with two vCPUs that never runs."""
    domctl(s, 1, "0", MADE, "two:8:2:V")
    domctl(s, 15, "$two", "16:4:2")
    for row, words in _fresh(rows("domctl"), "domctl", AS_WRITTEN):
        for name in row.domains:
            domctl(s, row.command, name, words, row.reads)
            if row.command in AFTERWARDS:
                domctl(s, AFTERWARDS[row.command][0], name, *AFTERWARDS[row.command][1:])
    domctl(s, 2, "$two")


def of_sysctls(s: Script) -> None:
    """sysctl and platform_op by Dom0."""
    for row, words in _fresh(rows("sysctl"), "sysctl", SYSCTLS_AS_WRITTEN):
        s.hypercall("d0", 35, f"0:4:{row.command},4:4:0x15,{words}", row.reads.replace(POOL, ""), a1="arg")
    for row, words in _fresh(rows("platform"), "platform", frozenset()):
        s.hypercall("d0", 7, f"0:4:{row.command},4:4:0x03000001,{words}", row.reads, a1="arg")


def of_hvm_ops(s: Script) -> None:
    """hvm_op at the limits of parameters and records; by a guest and by Dom0, of a domain that is new."""
    s.renew("H")
    for command, text in HVM_ROWS:
        for words in (text, *beside(text)):
            for by in ("d0", "A") if "H" not in text else ("d0",):
                s.hypercall(by, HVM_OP, words, a1=command, a2="arg")
            if command == SET_PARAM:
                s.hypercall("d0", HVM_OP, text.rpartition(",")[0], "v:8:8", a1=GET_PARAM, a2="arg")


def filled(s: Script) -> None:
    """The rows in structs that are full of something else."""
    for row in rows("domctl"):
        for name in () if row.command in AS_WRITTEN else row.domains:
            if not name.startswith("$"):
                domctl(s, row.command, name, f"16:112:{FILLING},{row.words}".rstrip(","), row.reads)
    for row in rows("sysctl"):
        if row.command not in SYSCTLS_AS_WRITTEN and (row.command, row.words) not in NOT_FILLED:
            words = f"8:128:{FILLING},0:4:{row.command},4:4:0x15,{row.words}".rstrip(",")
            s.hypercall("d0", 35, words, row.reads.replace(POOL, "").replace(KILOHERTZ, ""), a1="arg")
    for row in rows("platform"):
        if row.command in FILLED_PLATFORM:
            s.hypercall("d0", 7, f"8:128:{FILLING},0:4:{row.command},4:4:0x03000001,{row.words}", row.reads, a1="arg")
    s.hypercall("d0", 7, f"8:128:{FILLING},0:4:62,4:4:0x03000001,20:4:0", a1="arg")


def twice_wrong(s: Script) -> None:
    """A row by a guest, for nobody, for the caller, of another version: what is looked at first, the call or its words?"""
    done: set[tuple[int, str]] = set()
    for row in rows("domctl"):
        if (row.command, row.words) not in done:
            done.add((row.command, row.words))
            domctl(s, row.command, NOBODY, row.words)
            domctl(s, row.command, "B", row.words, by="A")
            domctl(s, row.command, "SELF", row.words, by="A")
            s.hypercall("d0", 36, f"0:4:{row.command},4:4:0x14,8:2:A,{row.words}".rstrip(","), a1="arg")
    for number, version, interface in ((35, "0x15", "sysctl"), (7, "0x03000001", "platform")):
        for row in rows(interface):
            s.hypercall("A", number, f"0:4:{row.command},4:4:{version},{row.words}".rstrip(","), a1="arg")
            s.hypercall("A", number, f"0:4:{row.command},4:4:0x13,{row.words}".rstrip(","), a1=UNMAPPED)


def neighbours(s: Script) -> None:
    """All of them."""
    of_domctls(s)
    of_sysctls(s)
    of_hvm_ops(s)
    filled(s)
    twice_wrong(s)

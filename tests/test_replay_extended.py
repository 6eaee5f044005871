"""Extended operations of recordings: expressions and places, crashed callers, calls without end, system calls.

Protects against: a wrongly computed argument, a result read from the wrong place, or a silent caller that ends
the replay, any of which would make a comparison with real Xen meaningless.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkhead.impl.xen import abi, hypercall, machine
from bulkhead.impl.xen.machine import Xen
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.replay.agents import NO_ANSWER
from bulkhead.proofs.replay.compare import explained, load_known
from bulkhead.proofs.replay.driver import replay
from bulkhead.proofs.replay.expressions import Caller
from bulkhead.proofs.replay.ops import execute
from bulkhead.proofs.replay.rig import Rig

HEADER = {"format": "xen-gnt-oracle/1", "profile": "x-test", "seed": "0"}


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.make("A")
    made.make("B")
    made.fill("A")
    return made


def recording(path: Path, *operations: tuple[str, dict[str, Any], dict[str, Any]]) -> Path:
    lines = [HEADER, *({"i": i, "op": op, "a": a, "res": res} for i, (op, a, res) in enumerate(operations))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_expressions(rig: Rig) -> None:
    a = Caller(rig, "A")
    layout = rig.agents["A"].layout
    rig.variables["x.1"] = 40
    assert a.value("0x10+2-1") == 17
    assert a.value("-1") == (1 << 64) - 1
    assert a.value("f.B/3+0x67") == rig.mfn("B/3") << 12 | 0x67
    assert a.value("k.$x.1") == 160 and a.value("$nothing") == 0xBADBAD
    assert (a.value("v.5"), a.value("w.6")) == (layout.va(5), layout.window_va(6))
    assert a.value("q.5") - a.value("t.0") == (5 - 64) * 8
    assert a.value("t.B.1") == rig.agents["B"].layout.window_maddr(1)
    assert [a.value(name) for name in ("SELF", "XEN", "IO", "d0", "A", "99")] == [0x7FF0, 0x7FF2, 0x7FF1, 0, 1, 99]
    rig.remove("B")
    assert a.value("B") == 0 and a.value("B/3") == (1 << 64) - 1
    with pytest.raises(ValueError, match="nonsense"):
        a.value("nonsense")
    with pytest.raises(KeyError):
        Caller(rig, "Z")


def test_places_repeats_and_kinds(rig: Rig) -> None:
    a = Caller(rig, "A")
    skip: set[str] = set()
    assert a.write_all("p0.4088:8:0x1122334455667788:3:8,16:2:-1,24:12:0xab") == 0
    assert a.read_all("last:p0.4088:8,first:p1.0:8,s:16:2:s,u:16:2,n:24:8,f:p1.0:8:f", 0, skip) == {
        "last": 0x1122334455667788,
        "first": 0x1122334455667788,
        "s": -1,
        "u": 0xFFFF,
        "n": 0xABABABABABABABAB,
        "f": 8,
    }
    assert a.read_all("r:r:8:s,v:24:1:v,V:24:1:V", -22, skip) == {"r": -22, "v": "*", "V": 0xAB}
    assert a.value("$v+$V") == 0xAB * 2 and not skip
    rig.taint[rig.mfn("A/3")] = bytearray(b"\1" * 4096)
    a.read_all("x:p3.0:8", 0, skip)
    assert skip == {"x"}


def test_a_pool_page_that_is_given_up_or_in_use_as_a_table_is_not_written(rig: Rig) -> None:
    layout = rig.agents["A"].layout
    assert rig.xen.call(rig.agents["A"].vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, layout.va(7), 0, 2) == 0
    give_up = {"by": "A", "nr": 12, "w": "0:8:arg+512,8:8:1,24:2:SELF,512:8:A/7", "a1": 1, "a2": "arg"}
    assert execute(rig, "x", give_up, set()) == {"r": 1}
    assert execute(rig, "x", {"by": "A", "w": "p7.0:8:1", "o": "y:p7.0:8"}, set()) == {"wbad": 1, "y": "gone", "r": 0}
    assert execute(rig, "x", {"by": "A", "w": "p8.0:8:1"}, set()) == {"r": 0}
    pin = {"by": "A", "nr": 26, "w": "8:8:A/8", "a1": "arg", "a2": 1, "a4": "SELF"}
    assert execute(rig, "x", pin, set())["r"] == -abi.EINVAL  # it is mapped writable
    assert rig.xen.call(rig.agents["A"].vcpu, abi.HYPERVISOR_UPDATE_VA_MAPPING, layout.va(8), 0, 2) == 0
    assert execute(rig, "x", {"by": "A", "w": "p8.0:8:0"}, set()) == {"r": 0}
    assert execute(rig, "x", pin, set()) == {"r": 0}
    assert execute(rig, "x", {"by": "A", "w": "p8.0:8:0", "o": "y:p8.0:8"}, set()) == {"wbad": 1, "y": 0, "r": 0}


def test_a_crashed_caller_gives_no_answer_and_others_go_on(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.agents["A"].domain.crash()
    call = {"by": "A", "nr": 12, "w": "0:2:SELF", "a1": 3, "a2": "arg"}
    assert execute(rig, "x", call, set()) == {"r": NO_ANSWER}
    assert execute(rig, "x", {**call, "by": "B"}, set())["r"] > 0
    assert execute(rig, "rd", {"by": "A", "pg": 1, "off": 0}, set()) == {"r": -110}

    def crash(xen: Xen, vcpu: Any, *registers: int) -> Generator[str, None, int]:
        vcpu.domain.crash()
        yield "crashed"
        return 0

    monkeypatch.setitem(hypercall.TABLE, 99, crash)
    path = recording(
        tmp_path / "x.jsonl",
        ("mkdom", {"n": "A"}, {"domid": 1, "r": 0}),
        ("x", {"by": "A", "nr": 99}, {"r": NO_ANSWER}),
        ("x", {"by": "A", "nr": 99}, {"r": NO_ANSWER}),
        ("map", {"by": "A", "dom": 0, "ref": 1, "flags": 2}, {"st": 32767, "r": NO_ANSWER}),
        ("dominfo", {"id": 1}, {"exists": 1, "dying": 0, "r": 0}),
    )
    assert replay(path).report == ()


def test_a_call_without_end_is_named_and_the_replay_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(xen: Xen, vcpu: Any, *registers: int) -> Iterator[str]:
        while True:
            yield "again"

    monkeypatch.setitem(hypercall.TABLE, 99, forever)
    monkeypatch.setattr(machine.run, "__defaults__", (1000,))
    calls = (
        ("mkdom", {"n": "A"}, {"domid": 1, "r": 0}),
        ("x", {"by": "A", "nr": 99, "a1": 7}, {"r": 0}),
        ("dominfo", {"id": 1}, {"exists": 1, "dying": 0, "r": 0}),
    )
    report = replay(recording(tmp_path / "x.jsonl", *calls)).report
    assert len(report) == 2 and "hypercall 99(0x7, 0x0, 0x0, 0x0, 0x0): no end after 1000 steps" in report[1]
    assert run(["replay", str(tmp_path / "x.jsonl")]) == 1
    silent = (calls[0], ("x", {"by": "A", "nr": 99, "a1": 7}, {"r": NO_ANSWER}), calls[2])
    assert replay(recording(tmp_path / "x.jsonl", *silent)).report == ()


def test_a_call_that_breaks_the_implementation_is_named_and_the_replay_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(xen: Xen, vcpu: Any, *registers: int) -> Iterator[str]:
        yield "on"
        raise AssertionError("a count below zero")

    monkeypatch.setitem(hypercall.TABLE, 99, broken)
    calls = (
        ("mkdom", {"n": "A"}, {"domid": 1, "r": 0}),
        ("x", {"by": "A", "nr": 99}, {"r": NO_ANSWER}),
        ("dominfo", {"id": 1}, {"exists": 1, "dying": 0, "r": 0}),
    )
    (line,) = replay(recording(tmp_path / "x.jsonl", *calls)).report
    assert "hypercall 99(0x0, 0x0, 0x0, 0x0, 0x0): AssertionError a count below zero" in line


def test_a_wrong_page_count_is_told_once(tmp_path: Path) -> None:
    looks = (("cur", {"n": "A"}, {"d": d, "r": 0}) for d in (0, 3, 3, 1))
    path = recording(tmp_path / "x.jsonl", ("mkdom", {"n": "A"}, {"domid": 1, "r": 0}), *looks)
    report = replay(path).report
    assert [line.split()[0] for line in report] == ["2", "4"]


def test_a_translated_guest(rig: Rig) -> None:
    assert execute(rig, "mkdom", {"n": "H", "kind": "hvm"}, set()) == {"domid": 3, "r": 0}
    rig.fill("H")
    assert execute(rig, "prd", {"pg": "H/5", "off": 8}, set()) == {"v": hex(ord("H") << 32 | 5 << 16 | 8), "r": 0}
    assert Caller(rig, "d0").value("H/5") == 5 and rig.name(5) == "H/5"
    assert execute(rig, "rmdom", {"n": "H"}, set()) == {"domid": 3, "exists": 0, "r": 0}


def test_system_calls_by_bytes(rig: Rig) -> None:
    skip: set[str] = set()
    assert execute(rig, "sys.open", {"f": 1, "dev": "evtchn"}, skip) == {"r": 0}
    assert execute(rig, "sys.open", {"f": 2, "dev": "nothing"}, skip) == {"r": -abi.ENOENT}
    bind = {"f": 1, "req": (4 << 16) | ord("E") << 8 | 2, "w": "u0:4:A", "o": "port:r:4:v", "nor": 1}
    assert execute(rig, "sys.ioctl", bind, skip) == {"port": "*", "r": 0}
    assert rig.variables["port"] > 0
    assert execute(rig, "sys.ioctl", {**bind, "argp": "0xffff00000000"}, skip)["r"] == -abi.EFAULT
    assert execute(rig, "sys.munmap", {"m": 3}, skip) == {"r": -abi.ENOENT}
    assert execute(rig, "sys.rd", {"m": 3, "off": 0}, skip) == {"sig": 11, "code": 1, "r": 0}
    assert execute(rig, "sys.close", {"f": 1}, skip) == {"r": 0}
    assert execute(rig, "sys.close", {"f": 1}, skip) == {"r": -abi.EBADF}


def test_an_area_is_protected_and_moved(rig: Rig, tmp_path: Path) -> None:
    path = recording(
        tmp_path / "x.jsonl",
        ("sys.open", {"f": 1, "dev": "gntalloc"}, {"r": 0}),
        ("mkdom", {"n": "A"}, {"domid": 1, "r": 0}),
        ("sys.ioctl", {"f": 1, "req": 0x184705, "w": "u0:2:A,u2:2:1,u4:4:2", "o": "a1:u8:8:V"}, {"r": 0, "a1": 0}),
        ("sys.mmap", {"f": 1, "m": 1, "n": 2, "off": "$a1"}, {"r": 0}),
        ("sys.wr", {"m": 1, "pg": 1, "off": 8, "v": 77}, {"r": 0}),
        ("sys.mprotect", {"m": 1, "prot": "-"}, {"r": 0}),
        ("sys.rd", {"m": 1, "pg": 1, "off": 8}, {"r": 0, "sig": 11, "code": 2}),
        ("sys.mprotect", {"m": 1, "prot": "r"}, {"r": 0}),
        ("sys.mremap", {"m": 1, "to": 2, "n": 3}, {"r": -14}),
        ("sys.mremap", {"m": 1, "to": 2}, {"r": 0}),
        ("sys.rd", {"m": 2, "pg": 1, "off": 8}, {"r": 0, "v": "0x4d"}),
        ("sys.wr", {"m": 2, "pg": 1, "off": 8, "v": 1}, {"r": 0, "sig": 11, "code": 2}),
        ("sys.mprotect", {"m": 1, "prot": "r"}, {"r": -2}),
        ("sys.mremap", {"m": 1, "to": 3}, {"r": -2}),
        ("sys.poll", {"f": 1}, {"r": 1, "ev": 5}),
        ("sys.poll", {"f": 9}, {"r": 0, "ev": 0}),
    )
    assert replay(path).report == ()


def test_a_guest_that_goes_gives_its_number_at_dom0_back(tmp_path: Path) -> None:
    status = {"by": "d0", "nr": 32, "w": "0:2:SELF,4:4:$p", "o": "st:8:4,u0:16:4", "a1": 5, "a2": "arg"}
    bound = {"by": "d0", "nr": 32, "w": "0:2:SELF,2:2:B", "o": "p:4:4:V", "a1": 6, "a2": "arg"}
    path = recording(
        tmp_path / "x.jsonl",
        ("mkdom", {"n": "A"}, {"domid": 1, "r": 0}),
        ("mkdom", {"n": "B"}, {"domid": 2, "r": 0}),
        ("x", bound, {"r": 0, "p": 18}),
        ("rmdom", {"n": "A"}, {"domid": 1, "exists": 0, "r": 0}),
        ("x", bound, {"r": 0, "p": 16}),
        ("x", status, {"r": 0, "st": 1, "u0": 2}),
    )
    assert replay(path).report == ()


def test_a_known_difference_is_known_of_one_kind_of_call_only() -> None:
    crashed: dict[str, Any] = {"op": "x", "a": {"nr": 20, "a1": 1}, "res": {"r": NO_ANSWER, "st0": 0}}
    known = load_known()
    assert explained(known, crashed, ("st0", 0, -1)) and not explained(known, crashed, ("r", NO_ANSWER, 0))
    assert not explained(known, {**crashed, "res": {"r": 0, "st0": 0}}, ("st0", 0, -1))
    assert not explained(known, {**crashed, "a": {"nr": 20, "a1": 0}}, ("st0", 0, -1))
    listed = {**crashed, "a": {"nr": 13}}
    assert explained(known, listed, ("o1", -32000, -1)) and not explained(known, listed, ("r1", 0, -22))
    assert all(row["reason"] and row["version"] for row in known)


def test_a_name_of_a_page_that_is_gone_goes_with_its_entry(rig: Rig) -> None:
    execute(rig, "ge", {"d": "A", "ref": 20, "flags": 1, "dom": "d0", "pg": "B/3"}, set())
    execute(rig, "rmdom", {"n": "B"}, set())
    assert rig.stale == {("A", 20)}
    swap = {"by": "A", "nr": 20, "w": "0:4:20,4:4:21,8:2:0x7fff", "o": "st:8:2:s", "a1": 11, "a2": "arg", "a3": 1}
    assert execute(rig, "x", swap, set())["st"] == 0 and rig.stale == {("A", 21)}


@pytest.mark.parametrize(
    ("arguments", "answers", "known"),
    [
        ({"nr": 36, "w": "0:4:5,4:4:0x15,8:2:A"}, ("flags", 0x11, 0x1), True),  # by timing: it polls, or sleeps
        ({"nr": 36, "w": "0:4:5,4:4:0x15,8:2:A"}, ("flags", 0x11, 0x9), False),
        ({"nr": 36, "w": "0:4:5,4:4:0x15,8:2:A"}, ("flags", 0x11, 0x3), False),
        ({"nr": 36, "w": "0:4:5,4:4:0x15,8:2:A"}, ("r", 0x11, 0x1), False),
        ({"nr": 36, "w": "0:4:4,4:4:0x15,8:2:A"}, ("flags", 0x11, 0x1), False),
        ({"nr": 29, "a1": 6, "w": "0:4:0,4:4:0"}, ("r", 1, NO_ANSWER), True),
        ({"nr": 29, "a1": 6, "w": "0:4:0,4:4:9"}, ("r", 1, NO_ANSWER), False),
        ({"nr": 29, "a1": 6, "w": "0:4:0,4:4:0"}, ("r", 1, 2), False),
    ],
)
def test_what_timing_explains_is_narrow(arguments: dict[str, Any], answers: tuple[str, Any, Any], known: bool) -> None:
    item = {"op": "x", "a": arguments, "res": {answers[0]: answers[1]}}
    assert (explained(load_known(), item, answers) is not None) == known

"""Real Xen boots, answers, and survives failures. Run by `make xen`.

Skipped if the packages are unavailable.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from bulkhead.model import loader
from bulkhead.proofs.refinement.calls import Call as Said
from bulkhead.proofs.refinement.calls import run
from bulkhead.proofs.replay.ops import execute
from bulkhead.proofs.replay.rig import Rig
from bulkhead.proofs.theorems.attack import find_attack
from tests.xen import attack
from tests.xen.build import Images
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.protocol import Call, answers
from tests.xen.rig import images
from tests.xen.target import NOT_AVAILABLE, RealXen, as_answered
from tests.xen.workload.mix import script

pytestmark = pytest.mark.xen


@pytest.fixture(scope="module")
def made() -> Images:
    try:
        return images()
    except Unavailable as exc:
        pytest.skip(str(exc))


def results(machine: Machine, *calls: Call) -> list[dict[str, object]]:
    return [dict(answer.results) for answer in answers(machine, list(calls))]


def test_guests_of_both_kinds_live_and_die(made: Images) -> None:
    """Two agents and a PVH domain at once; ids go up; a page is what its guest wrote, as Dom0 and the guest see it."""
    with Machine(made) as machine:
        a, b, h = results(
            machine, Call("mkdom", {"n": "A"}), Call("mkdom", {"n": "B"}), Call("mkdom", {"n": "H", "kind": "hvm"})
        )
        assert [one["domid"] for one in (a, b, h)] == [1, 2, 3]
        _, by_dom0, by_guest, hole = results(
            machine,
            Call("wr", {"by": "A", "pg": 3, "off": 8, "v": 77}),
            Call("prd", {"pg": "A/3", "off": 8}),
            Call("rd", {"by": "A", "pg": 3, "off": 8}),
            Call("rd", {"by": "A", "pg": 1 << 20, "off": 0}),
        )
        assert by_dom0["v"] == by_guest["v"] == "0x4d"
        assert hole["fault"] == 14
        gone, again = results(machine, Call("rmdom", {"n": "A"}), Call("mkdom", {"n": "A"}))
        assert gone["exists"] == 0 and again["domid"] == 4


def test_a_pvh_guest_makes_calls_itself(made: Images) -> None:
    """It maps a grant into its own physical map, loads through it, and unmaps it: then nothing is there."""
    with Machine(made) as machine:
        results(machine, Call("mkdom", {"n": "A"}), Call("mkdom", {"n": "P", "kind": "pvh"}), Call("pfill", {"d": "A"}))
        words = "0:8:w.20,8:4:2,12:4:8,16:2:A,18:2:0x7fff"
        _, mapped, seen, gone, after = results(
            machine,
            Call("ge", {"d": "A", "ref": 8, "flags": 1, "dom": "P", "pg": "A/3"}),
            Call("x", {"by": "P", "nr": 20, "w": words, "o": "st:18:2:s,h:20:4:V", "a1": 0, "a2": "arg", "a3": 1}),
            Call("rd", {"by": "P", "slot": 20, "off": 8}),
            Call("x", {"by": "P", "nr": 20, "w": "0:8:w.20,16:4:$h", "o": "st:20:2:s", "a1": 1, "a2": "arg", "a3": 1}),
            Call("rd", {"by": "P", "slot": 20, "off": 8}),
        )
        assert mapped["st"] == gone["st"] == 0 and seen["v"] == hex(ord("A") << 32 | 3 << 16 | 8)
        assert after["v"] == hex((1 << 64) - 1)


def test_a_guest_that_xen_crashed_is_a_result_at_once(made: Images) -> None:
    """A guest crashes itself; each of its later calls is answered at once, and others continue."""
    with Machine(made) as machine:
        results(machine, Call("mkdom", {"n": "A"}), Call("mkdom", {"n": "B"}))
        started = time.monotonic()
        (shot,) = results(machine, Call("x", {"by": "A", "nr": 29, "w": "0:4:3", "a1": 2, "a2": "arg"}))
        more = results(machine, *[Call("x", {"by": "A", "nr": 17, "a1": 0})] * 50)
        (alive,) = results(machine, Call("x", {"by": "B", "nr": 17, "a1": 0}))
        assert shot["r"] == -9999 and shot["crashed"] == 1
        assert all(one["r"] == -9999 for one in more) and alive["r"] == 4 << 16 | 17
        assert time.monotonic() - started < 5


def test_a_machine_that_is_killed_and_one_that_panics(made: Images) -> None:
    with pytest.raises(RigFailed) as caught, Machine(made) as machine:
        os.kill(machine.pid, signal.SIGKILL)
        results(machine, Call("dominfo", {"id": 0}))
    assert "signal 9" in caught.value.text(1) and "(XEN)" in caught.value.text(1)
    started = time.monotonic()
    with pytest.raises(RigFailed) as caught, Machine(made) as machine:
        started = time.monotonic()
        results(machine, Call("x", {"by": "d0", "nr": 29, "w": "0:4:3", "a1": 2, "a2": "arg"}))  # Dom0 has crashed
    assert time.monotonic() - started < 30
    assert caught.value.call


def test_real_xen_and_the_implementation_are_targets_of_the_same_calls(made: Images) -> None:
    """One by one, by the protocol of all targets: every call can be made, and both answer with the same codes."""
    calls = script(5, 0, 300)
    said = [Said(call.op, str(call.args.get("by", "")), {k: v for k, v in call.args.items() if k != "by"}) for call in calls]
    with Machine(made) as machine:
        real = run(said, RealXen(machine))
    rig = Rig()
    ours = [as_answered(execute(rig, call.op, dict(call.args), set())) for call in calls]
    assert NOT_AVAILABLE not in real
    assert [answer.code for answer in real] == [answer.code for answer in ours]


def test_without_the_module_there_is_no_privcmd(made: Images) -> None:
    with Machine(made, privcmd=False) as machine:
        assert '"privcmd":0' in machine.hello
        refused, granted = results(
            machine, Call("sys.open", {"f": 1, "dev": "privcmd"}), Call("sys.open", {"f": 2, "dev": "gntdev"})
        )
        assert refused["r"] == -2 and granted["r"] == 0


def test_the_attack_reads_a_guests_secret_until_privcmd_goes(made: Images) -> None:
    system = loader.load("monolithic")
    trace = find_attack(system, "only_by_grant")
    assert trace is not None
    out = attack.run(made, system, trace)
    assert out.stolen and out.kept

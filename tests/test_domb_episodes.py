"""What once ended episodes of DomB's campaign in a mismatch, by itself: each call is compared.

Rules or harness were wrong: `may_use` lacked parentheses; an event came within a write that enabled its port; the table of a
guest that was never started was said to have two entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.impl.rings import pages as wire
from bulkhead.impl.xen import abi
from bulkhead.model import loader
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import Use, element
from bulkhead.model.world import World
from bulkhead.proofs.refinement.calls import Answer, Call
from bulkhead.proofs.refinement.domb.exports import files
from bulkhead.proofs.refinement.domb.machine import WAIT, Moment
from bulkhead.proofs.refinement.domb.target import DombTarget
from bulkhead.proofs.refinement.domb.world import Size, rules_for

FIRST = Size().first_process


class Guests:
    """A machine in lockstep with its rules, a tool, and guests as it has them built."""

    def __init__(self, root: Path) -> None:
        files(root)
        self.machine = DombTarget(rules_for(Size()), 1, root / "exported")
        self.machine.meanwhile = self._waits
        self.tool = f"p{self.call('', 'spawn').given}"

    def call(self, by: str, operation: str, /, **arguments: object) -> Answer:
        return self.machine.carry_out(Call(operation, by, arguments))

    def _waits(self, moment: Moment) -> None:
        if moment.kind == WAIT:
            self.call("d1", "step")

    def built(self, xl: bool) -> str:
        """A new guest; xl starts it."""
        before = set(self.machine.service.guests)
        words = {"kernel": "kernel0", "ramdisk": "", "pages": 64, "cmdline": ""}
        assert self.call(self.tool, "use_tool", xl=xl, name="one", then=[], patient=True, waits=99, **words).code == "okay"
        self.call("d1", "step")
        (domid,) = set(self.machine.service.guests) - before
        return f"d{domid}"


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    made = Guests(tmp_path)
    yield made
    assert made.machine.book is not None
    made.machine.book.close()


def test_the_table_of_a_guest_that_was_never_started_has_one_frame(guests: Guests) -> None:
    """A reference in that frame is refused as a grant that is none, one behind it as a bad reference: by both sides."""
    runs, waits = guests.built(True), guests.built(False)
    other = int(waits[1:])
    to_slot = {"slot": 0, "dom": other, "writable": False}
    assert guests.call(runs, "map_grant_ref", ref=8, **to_slot).code == "GNTST_general_error"
    assert guests.call(runs, "map_grant_ref", ref=5000, **to_slot).code == "GNTST_bad_gntref"
    assert guests.call(runs, "map_grant_ref", ref=0, **to_slot).code == "GNTST_general_error", "it is granted to Dom0"
    source = {"src_ref": True, "src_dom": other, "dst_ref": True, "dst_dom": other, "dst": 8, "length": 16}
    assert guests.call(runs, "copy", src=8, **source).code == "GNTST_general_error"
    assert guests.call(runs, "copy", src=5000, **source).code == "GNTST_bad_gntref"


def test_what_comes_while_a_port_is_off_is_delivered_within_the_write_that_turns_it_on(guests: Guests) -> None:
    """The file has the event when the write returns; the port is off again then, and a further write brings nothing."""
    guest = guests.built(True)
    process = f"p{FIRST}"
    fd = guests.call(process, "open", kind="evtchn").given
    theirs = guests.call(guest, "evtchn_alloc_unbound", dom=abi.DOMID_SELF, remote=0).given
    port = guests.call(process, "evtchn_bind_interdomain_port", fd=fd, dom=int(guest[1:]), port=theirs).given
    read = {"fd": fd, "size": 64, "may_sleep": False}
    guests.call(process, "read", **read)  # a bound port rings once
    guests.call(process, "write", fd=fd, port=port, odd=0)
    assert guests.call(process, "read", **read).code == "EAGAIN"
    for _ in range(3):
        assert guests.call(guest, "evtchn_send", port=theirs).code == "okay"
        assert guests.call(process, "read", **read).given == [port]
        assert guests.call(guest, "evtchn_send", port=theirs).code == "okay"  # the port is off: this one waits
        assert guests.call(process, "read", **read).code == "EAGAIN"
        assert guests.call(process, "write", fd=fd, port=port, odd=0).code == "okay"
        assert guests.call(process, "read", **read).given == [port], "within the write"
        assert guests.call(process, "write", fd=fd, port=port, odd=0).code == "okay"
        assert guests.call(process, "read", **read).code == "EAGAIN"


def test_a_grant_in_use_is_for_whom_it_is_used_whatever_the_entry_says_now(guests: Guests) -> None:
    """xenstored maps a guest's ring while a process of Dom0 has the page mapped, though the grant is withdrawn."""
    guest = guests.built(True)
    d = int(guest[1:])
    assert guests.call(guests.tool, "ask_xenstored", type=wire.XS_RELEASE, payload=(b"%d\0" % d).hex()).code == "okay"
    assert guests.call(guests.tool, "map_grant", dom=d, ref=1, prot=3).code == "okay"
    guests.call(guest, "write_entry", ref=1, flags=0, dom=1, mfn=0)
    introduce = (b"%d\0%d\0%d\0" % (d, 1, 1)).hex()
    assert guests.call(guests.tool, "ask_xenstored", type=wire.XS_INTRODUCE, payload=introduce).code == "okay"


PERMITS, NOT_ANY = "permit_access", "invalid"


@pytest.mark.parametrize(
    ("used_by", "kind", "grantee", "may"),
    [
        (0, NOT_ANY, 1, True),  # the entry is not looked at
        (1, PERMITS, 0, False),
        (None, PERMITS, 0, True),
        (None, PERMITS, 1, False),
        (None, NOT_ANY, 0, False),
    ],
)
def test_what_dom0_may_use(used_by: int | None, kind: str, grantee: int, may: bool) -> None:
    """`may_use` reads the entry only of a grant that is not in use."""
    system = loader.load("disaggregated")
    consts = {"dom0": 0, "domb": 1, "domb_space": 1, "gref_console": 0, "gref_xenstore": 1, "root": 0}
    machine = ExecutableModel(system, World({**dict.fromkeys(system.sorts, 2), "Domain": 3}, consts))
    state, number = machine.empty_state(), {name: k for k, name in enumerate(system.funcs)}
    at = 2 * 2 + 1  # domain 2, reference 1
    state[number["status.reading"]][at] = used_by is not None
    state[number["active.grantee"]][at] = used_by or 0
    state[number["entry.kind"]][at] = system.enums["Kind"].index(kind)
    state[number["entry.grantee"]][at] = grantee
    asked = Use("may_use", (element(2, "Domain"), element(1, "Ref")), "bool")
    assert machine.holds(state, asked) == may

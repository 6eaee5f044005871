"""Attacks on DomB's rules with a fault, staged in lockstep: rules and implementation have the same fault.

A scenario is a short script of what tools do. The implementation, with a fault of one line or two, executes it beside the
rules with the fault of the same meaning: every step of the implementation is one of the rules', so the rule steps that were
taken are an attack that the executable model confirms, and the claim falls on a state that the machine is in, too. Without
the faults the same script must run to its end with the claim in force. Not here: the table of attacks (attacks.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs.vchan import Offer, Vchan, client_init
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.lifecycle import create_domain, set_max_vcpus
from bulkhead.model.ir import Term
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.compare import differences
from bulkhead.proofs.refinement.domb.daemons import Daemons
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.kernels import BAD, WANTS_ANOTHER_LOADER
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.world import DOMB, Rules
from bulkhead.proofs.refinement.lockstep.abstraction import Places
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

PAGES: Final = 64


class Violated(Exception):
    """The claim has fallen."""


class Judged(Book):
    """The rule state, with one claim that is evaluated after every step."""

    claim = ""
    fallen = False
    goes_on = False  # after the fall, to the end of the call, when both sides are compared

    def judge(self, claim: str) -> None:
        """Evaluate this claim from now on."""
        self.trace: list[str] = []
        self.claim = claim
        system = self.rules.system
        self.body: Term = {**system.theorems, **system.step_claims}[claim].body
        self.of_steps = claim in system.step_claims
        if not self.of_steps and not self.rules.machine.holds(self.state, self.body):
            raise Mismatch(f"{claim} does not hold at first")

    def try_step(self, label: str, args: dict[str, int], fail: str | None = None) -> str | None:
        if not self.claim:
            return super().try_step(label, args, fail)
        if self.fallen and not self.goes_on:
            raise Violated  # what the implementation does while it unwinds is not followed any more
        code = super().try_step(label, args, fail)
        if code is not None and not self.fallen:
            self.trace.append(f"{label} = {code}")
            if not self.of_steps and not self.rules.machine.holds(self.state, self.body):
                self.breaks(label, code, [self.claim])
        return code

    def breaks(self, label: str, code: str, claims: Sequence[str]) -> None:
        if self.claim not in claims:
            super().breaks(label, code, claims)
        if self.of_steps and not self.fallen:
            self.trace.append(f"{label} = {code}")
        self.fallen = True
        if not self.goes_on:
            raise Violated


class Watching(Follower):
    """Follows a DomB that may do things in another order than it should."""

    looked_at = False

    def offered(self, chan: Vchan) -> None:
        """A DomB that reads its ring where it should not is followed until the claim falls; inbox.py would stop it."""

    def was_checked(self) -> bool:
        """Has the parser been through what was read?"""
        return self.looked_at


@dataclass
class Staged:
    """The result of a scenario: the rule steps, whether the claim fell, and where rules and machine differ then."""

    steps: list[str] = field(default_factory=list)
    fell: bool = False
    differences: Places = field(default_factory=dict)


class Scene:
    """A machine with one tool that is connected to DomB and answers for its files."""

    def __init__(self, rules: Rules, root: Path, claim: str) -> None:
        self.rig = Rig(1, rules.size.heap, rules.size.domb_pages)
        self.book = Judged(rules, self.rig.own_mfns, self.rig.first_mfn)
        self.follower = Watching(self.rig, self.book)
        self.service = self.rig.listen(self.follower)
        self.follower.service = self.service
        self.service.on_step = self._step
        self.stops_at = ""
        self.proxy = FileProxy(root)
        self.chan: Vchan | None = None
        self.daemons: Daemons | None = None
        self.book.judge(claim)
        self.number = 0

    def _step(self, step: str, what: str) -> None:
        if step == "create":
            self.follower.looked_at = self.parsed
        self.parsed = step == "parse"
        if step == self.stops_at:
            self.follower.excuse(abi.EIO)
            raise KernelError(abi.EIO)

    parsed = False

    def connect(self) -> None:
        """DomB offers its channel; a tool takes it."""
        offered = self.service.offer()
        self.follower.who = self.follower.spawn()
        self.chan = client_init(self.rig.process("tool"), Offer(DOMB, offered.ring_ref, offered.port))
        self.pipe = p.Pipe(self.chan)

    def send(self, op: int, body: bytes) -> None:
        """A request."""
        self.number += 1
        self.pipe.send(p.Message(op, self.number, 0, body))

    def domb(self) -> None:
        """DomB works."""
        self.service.step()
        self.follower.settle()

    def receive(self) -> p.Message | None:
        """The next message of DomB's."""
        return self.pipe.receive()

    def create(self, kernel: str = "kernel0", ramdisk: str = "", answer: bool = True) -> p.Message | None:
        """Have a guest built; the answer, unless it is left in the ring."""
        self.send(p.CREATE, p.CreateRequest(kernel, ramdisk, PAGES, "").pack())
        for _ in range(60):
            self.domb()
            if not answer and self.service.guests:
                return None
            message = self.receive()
            if message is None:
                continue
            if message.op & p.REPLY:
                return message
            status, body = self.proxy.handle(message.op, message.body)
            self.pipe.send(p.Message(message.op | p.REPLY, message.number, status, body))
        raise Mismatch("DomB gives no answer")

    def stranger(self) -> int:
        """A guest that runs from the beginning, and that DomB has not built."""
        made = create_domain(self.rig.xen)
        assert not isinstance(made, int)
        set_max_vcpus(made, 1)
        made.creation_finished, made.pause_count = True, 0
        T, d, life = self.book.T, self.book.domain(made.domid), self.book.free_life()
        T["domain.phase"][d], T["domain.paused"][d], T["domain.life"][d] = self.book.m["Phase"]["running"], 0, life
        T["fits"][d * len(T["first_frame"]) : (d + 1) * len(T["first_frame"])] = T["first_frame"]
        T["spent"][life] = 1
        self.follower.lives[made] = life
        return made.domid


def build(scene: Scene) -> None:
    """A guest is built, and that is all."""
    scene.connect()
    scene.create()


def build_that_fails(scene: Scene) -> None:
    """An error while DomB maps pages of the guest."""
    scene.connect()
    scene.stops_at = "page tables"
    scene.create()


def build_from_garbage(scene: Scene) -> None:
    """A kernel that wants another loader."""
    scene.connect()
    scene.create(f"bad{BAD.index(WANTS_ANOTHER_LOADER)}")


def build_twice(scene: Scene) -> None:
    """A build whose kernel has been read, and whose ramdisk is not there; then another one, from another kernel."""
    scene.connect()
    scene.create("kernel0", "nothing")
    scene.create("kernel1")


def start_untold(scene: Scene) -> None:
    """A tool guesses the id of a guest whose answer lies in the ring, and starts it."""
    _guess(scene, p.UNPAUSE)


def end_untold(scene: Scene) -> None:
    """A tool guesses the id of a guest whose answer lies in the ring, and ends it."""
    _guess(scene, p.DESTROY)


def _guess(scene: Scene, request: int) -> None:
    scene.connect()
    scene.create(answer=False)
    (domid,) = scene.service.guests
    scene.send(request, p.DOMID.pack(domid))
    scene.domb()


def destroy_a_stranger(scene: Scene) -> None:
    """A request to destroy: it names a stranger while it is copied, and a guest of DomB's when DomB looks it up."""
    victim = scene.stranger()
    scene.connect()
    scene.create()
    (mine,) = scene.service.guests
    chan = scene.chan
    assert chan is not None and chan.writer is not None
    writer = chan.writer

    def changes(_: p.Message) -> None:
        where = writer.ring.data + ((writer.prod - p.DOMID.size) & (writer.ring.size - 1))
        writer.memory.store(where, p.DOMID.pack(mine))
        scene.follower.in_the_ring("destroy", scene.book.domain(mine))

    scene.send(p.DESTROY, p.DOMID.pack(victim))
    scene.service.taken = changes
    scene.domb()


def run(rules: Rules, claim: str, scenario: Callable[[Scene], None], root: Path) -> Staged:
    """Run a scenario. Mismatch where the implementation does what the rules do not."""
    out = Staged()
    scene = Scene(rules, root, claim)
    try:
        with contextlib.suppress(Violated):
            scenario(scene)
    finally:
        scene.proxy.close_all()
    out.fell, out.steps = scene.book.fallen, scene.book.trace
    scene.book.claim = ""
    phases, dying = scene.book.T["domain.phase"], scene.book.m["Phase"]["dying"]
    scene.follower.dying |= {d for d, phase in enumerate(phases) if phase == dying}
    scene.follower.settle()  # what Xen has torn down since
    out.differences = differences(scene.follower)
    if scene.daemons is not None:
        scene.daemons.compare(out.differences)
    return out


__all__ = ["Scene", "Staged", "run"]

"""The rule state in lockstep with the implementation, and the mapping of the implementation's objects to elements.

A follower (follow_grants.py and its neighbours) fires rule steps here with arguments and picks from the
implementation. The rules' own assignments update ghost state. Elements are bound when the implementation creates
an object and freed when it is destroyed. Not here: the implementation's state (abstraction.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.p2m import RAM_TYPES
from bulkhead.model.caller import OKAY
from bulkhead.model.world import State, size_of
from bulkhead.proofs.refinement.lockstep.rule_steps import Log, Mismatch, RuleSteps
from bulkhead.proofs.refinement.lockstep.spec_world import NOBODY, TOOLS, Rules
from bulkhead.proofs.refinement.lockstep.testbed import FIRST_NUMBER

ELSEWHERE = -1  # a guest frame number at which there is never a page
FORGET_EPOCHS, FORGET_LIVES, DENY = "(forget epochs)", "(forget lives)", "(deny)"  # fields of a recording besides rule steps


class SpecState(RuleSteps):
    """A rule state with the bindings of its elements."""

    def __init__(self, rules: Rules, first_mfn: int, log: Log | None = None, state: State | None = None) -> None:
        """`state`: that of another rule state, which is shared; else the initial one."""
        super().__init__(rules, rules.start() if state is None else state, rules.size.ports, log)
        self.rules = rules
        self.size = rules.size
        self.first_mfn = first_mfn
        self.use = rules.members["Use"]
        self.xens_uses = {
            self.use[name]: name.removesuffix("_frame") for name in ("table_frame", "status_frame", "info_frame")
        }
        self.phase = rules.members["Phase"]
        self.kind = rules.members["Kind"]
        self.point = rules.members["Point"]
        self.lives: dict[Domain, int] = {}  # each incarnation -> Life
        self.refs = {number: i for i, number in enumerate(self.size.refs)}
        self.slots: dict[tuple[int, int], int] = {}  # (space, virtual page) -> Translation
        self.numbers: dict[tuple[int, int], int] = {}  # (domid, guest frame number) -> Translation, of PVH guests
        self.reserved: set[int] = set()  # translations that are numbers
        self.handles: dict[tuple[int, int], int] = {}  # (domid, handle) -> Handle
        self.dom0_frames: dict[int, int] = {}  # mfn -> Frame, for Dom0's own pages
        self.left: set[int] = set()  # pages that Dom0's kernel has freed, and that a dying domain may still map
        self.free_calls = list(range(self.size.calls - 1, -1, -1))
        self.awaiting_free: set[int] = set()  # frames that their owner has given up and that are not in the heap yet

    # Elements.

    def domain(self, domid: int) -> int:
        """The element of a domain id."""
        return domid if 0 <= domid < self.size.nobody else self.size.nobody

    def frame(self, mfn: int) -> int:
        """The element of a frame number."""
        element = mfn - self.first_mfn
        if 0 <= element < self.size.heap:
            return element
        return self.dom0_frames.get(mfn, self.size.nowhere)

    def named(self, domain: Domain, number: int) -> int:
        """The element of the page that a number names as the domain's own: a frame number or a guest frame number."""
        if domain.p2m is None:
            return self.frame(number)
        found, ptype = domain.p2m.lookup(number)
        return self.frame(found.mfn) if found is not None and ptype in RAM_TYPES else self.size.nowhere

    def of_number(self, domain: Domain, number: int) -> int:
        """The element of the page at a number, whosever it is."""
        if domain.p2m is None:
            return self.frame(number)
        found = domain.p2m.lookup(number)[0]
        return self.size.nowhere if found is None else self.frame(found.mfn)

    def reserve_numbers(self, domid: int, numbers: Iterable[int]) -> None:
        """Choose translations for the guest frame numbers of a PVH guest: always the same for the same id."""
        for gfn in (*numbers, ELSEWHERE):
            if (domid, gfn) not in self.numbers:
                t = self.numbers[domid, gfn] = self.free_translation()
                self.reserved.add(t)

    def number(self, domain: Domain, number: int) -> int:
        """The translation that stands for a guest frame number; of those that no page comes to, one stands for all."""
        if domain.p2m is None:
            return 0
        return self.numbers.get((domain.domid, number), self.numbers[domain.domid, ELSEWHERE])

    def at_slot(self, domid: int, slot: int) -> int | None:
        """The translation at a guest's slot; of a PVH guest, if a grant made it."""
        t = self.slots.get((domid, slot))
        if t is None and self.T["translated"][domid]:
            t = self.numbers[domid, FIRST_NUMBER + slot]
            grant = self.T["translation.origin"][t] == self.rules.members["Origin"]["grant"]
            return t if self.T["translation.present"][t] and grant else None
        return t

    def spare_dom0_frame(self) -> int:
        """An element for a page of Dom0; `nowhere` if all are in use."""
        used = set(self.dom0_frames.values())
        first = self.size.first_dom0_frame
        return next((e for e in range(first, first + self.size.dom0_frames) if e not in used), self.size.nowhere)

    def know_dom0_frame(self, mfn: int) -> int:
        """The element of a page that Dom0's kernel allocates."""
        self.left.discard(mfn)
        if mfn not in self.dom0_frames:
            self._drop_left()
            self.dom0_frames[mfn] = self.spare_dom0_frame()
        return self.dom0_frames[mfn]

    def forget_dom0_frame(self, mfn: int) -> None:
        """Dom0's kernel has freed a page; its element is reused when nobody maps it any more."""
        self.left.add(mfn)
        self._drop_left()

    def _drop_left(self) -> None:
        T = self.T
        for mfn in list(self.left):
            f = self.dom0_frames[mfn]
            if not any(
                at == f and (there or kept)
                for at, there, kept in zip(
                    T["translation.frame"], T["translation.present"], T["translation.cached"], strict=True
                )
            ):
                self.left.discard(mfn)
                del self.dom0_frames[mfn]

    def mfn(self, element: int) -> int:
        """The frame number of an element."""
        return next((m for m, e in self.dom0_frames.items() if e == element), self.first_mfn + element)

    def ref(self, number: int) -> int:
        """The element of a reference; references outside the world are outside of every table."""
        return self.refs.get(number, self.rules.nrefs - 1)

    def handle(self, domid: int, number: int) -> int:
        """The element of a domain's handle; for an invalid handle, some dead record."""
        found = self.handles.get((domid, number))
        return found if found is not None else self.free_handle()

    def free_handle(self) -> int:
        """An unused record."""
        host, device, taken = self.T["mapping.host"], self.T["mapping.device"], self.T["mapping.taken"]
        for h in range(self.size.handles - 1):  # the last element is no record: translations without a grant have it
            if not (host[h] or device[h] or taken[h]):
                return h
        raise Mismatch("the world has too few handles")

    def free_translation(self, other: int = -1) -> int:
        """An unused translation."""
        present, cached = self.T["translation.present"], self.T["translation.cached"]
        for t in range(self.size.translations):
            if not (present[t] or cached[t]) and t != other and t not in self.reserved:
                return t
        raise Mismatch("the world has too few translations")

    def free_epoch(self) -> int:
        """A fresh allocation; unreferenced old ones are reused."""
        if all(self.T["past"]):
            self.forget_epochs()
        return self.T["past"].index(0)

    def forget_epochs(self) -> None:
        """Reset unreferenced allocations to fresh ones."""
        self._note(FORGET_EPOCHS, {}, OKAY, None)
        past, use, epoch = self.T["past"], self.T["frame.use"], self.T["frame.epoch"]
        unused = (self.use["free"], self.use["unscrubbed"])
        keep = {epoch[f] for f in range(self.size.frames) if use[f] not in unused}
        for t in range(self.size.translations):
            if self.T["translation.present"][t] or self.T["translation.cached"][t]:
                keep.add(self.T["translation.epoch"][t])
        for e in range(len(past)):
            past[e] = int(e in keep)

    def free_life(self) -> int:
        """A fresh life; unreferenced old ones are reused, without offers."""
        spent = self.T["spent"]
        if all(spent):
            for f in range(self.size.frames):
                if self.T["frame.use"][f] == self.use["unscrubbed"]:
                    self.step("scrub_page", {"f": f})
            self.forget_lives()
        if all(spent):
            raise Mismatch("the world has too few lives")
        return spent.index(0)

    def forget_lives(self) -> None:
        """Reset unreferenced lives to fresh ones, without offers."""
        self._note(FORGET_LIVES, {}, OKAY, None)
        spent = self.T["spent"]
        keep = {self.T["domain.life"][d] for d in range(NOBODY) if self.T["domain.phase"][d] != self.phase["absent"]}
        for h in range(self.size.handles):
            if self.T["mapping.host"][h] or self.T["mapping.device"][h]:
                keep.add(self.T["mapping.granter_life"][h])
        for f in range(self.size.frames):
            if self.T["frame.content"][f] == 1:
                keep.add(self.T["frame.secret"][f])
        block = self.rules.nrefs * (NOBODY + 1) * self.size.frames
        ports = self.size.ports * (NOBODY + 1)
        for life in range(len(spent)):
            if life not in keep:
                spent[life] = 0
                for name, size in (("offered", block), ("offered_rw", block), ("invited", ports)):
                    self.T[name][life * size : (life + 1) * size] = [0] * size

    def at(self, func: str, *index: int) -> int:
        """The value of a state function."""
        args = self.rules.system.funcs[func].args
        flat = index[0]
        for sort, i in zip(args[1:], index[1:], strict=True):
            flat = flat * size_of(self.rules.system, self.rules.machine.world, sort) + i
        return self.T[func][flat]

    def bound(self, domain: Domain) -> bool:
        """Is this domain object the incarnation in the rules?"""
        return self.lives.get(domain) == self.T["domain.life"][self.domain(domain.domid)]

    # Steps.

    def deny(self, pair: int) -> None:
        """The policy refuses a pair of domains, given by its place in the matrix; at the start only."""
        self._note(DENY, {"pair": pair}, OKAY, None)
        self.T["xsm_grant"][pair] = self.T["xsm_event"][pair] = 0

    def _note(self, label: str, args: dict[str, int], code: str, fail: str | None) -> None:
        """Something that no rule does is part of a recording, too."""
        if self.log is not None:
            self.log.append((label, args, code, fail))

    def again(self, label: str, args: dict[str, int], fail: str | None) -> str | None:
        """Take a step as it was noted; the code that it ends with now."""
        if label == FORGET_EPOCHS:
            self.forget_epochs()
        elif label == FORGET_LIVES:
            self.forget_lives()
        elif label == DENY:
            self.deny(args["pair"])
        else:
            return self.try_step(label, args, fail)
        return OKAY

    def build_page(self, privcmd: int, domid: int, element: int, number: int | None = None) -> None:
        """The builder populates a page of a guest (of a PVH guest, at a number), writes it through a foreign mapping of its
        file and unmaps that."""
        p = {"p": TOOLS, "x": privcmd}
        new = {"f_f": element, "f_e": self.free_epoch()}
        if number is None:
            self.step("privcmd_populate_physmap", {**p, "d": domid, **new})
        else:
            at = {"space": domid, "t": number, "nil": self.size.handles - 1}
            self.step("privcmd_populate_physmap_at", {**p, "d": domid, **at, **new})
        t = self.free_translation()
        self.step(
            "privcmd_mmapbatch", {**p, "dom": domid, "f": element, "writable": 1, "t_t": t, "t_nil": self.size.handles - 1}
        )
        self.step("store", {"space": TOOLS, "t": t})
        self.step("privcmd_munmap", {"p": TOOLS, "t": t})
        self.step("flush_tlb", {"d": 0})

"""The rule state that runs beside DomB's implementation: its steps, what no rule does, and the log of both.

Ghost elements (lives, epochs, turns, visits) are used again when nothing refers to them any more (`forget`), and the tables
of XenStore's paths are set as paths come up (`put`). Both are part of a recording, besides rule steps, so that the rules
alone can take a recorded run again (`again`). Not here: which object is which element (book.py), and which steps are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.world import DOM0, KERNEL, KERNEL_FILE, NOBODY, Rules
from bulkhead.proofs.refinement.lockstep.rule_steps import Log, RuleSteps

PUT: Final = "(put)"


class RuleState(RuleSteps):
    """A rule state, by names of its functions in `T`."""

    def __init__(self, rules: Rules, log: Log | None = None) -> None:
        super().__init__(rules, rules.start(), rules.size.ports, None)
        self.rules = rules
        self.size = rules.size
        self.m = rules.members
        self.step("open_gntdev", {"p": KERNEL, "x_x": KERNEL_FILE})
        self.log = log  # a fresh state has taken this step already

    def close(self) -> None:
        """Give the tables back, which are large; what is left of an episode waits for the collector of cycles."""
        self.state.clear()
        self.T.clear()

    # What no rule does.

    def put(self, values: Mapping[tuple[str, int], int]) -> None:
        """Set values of the state, by function and place."""
        changed = {key: value for key, value in values.items() if self.T[key[0]][key[1]] != value}
        if changed and self.log is not None:
            self.log.append((PUT, {f"{name}:{at}": value for (name, at), value in changed.items()}, OKAY, None))
        for (name, at), value in changed.items():
            self.T[name][at] = value

    def forget(self, what: str) -> None:
        """Forget ghosts that nothing refers to any more."""
        if self.log is not None:
            self.log.append((f"(forget {what})", {}, OKAY, None))
        FORGET[what](self)

    def again(self, label: str, args: dict[str, int], fail: str | None) -> str | None:
        """Take a step as it was logged; the code that it ends with now."""
        if label == PUT:
            places = {key: key.rpartition(":") for key in args}
            self.put({(places[key][0], int(places[key][2])): value for key, value in args.items()})
        elif label.startswith("(forget "):
            self.forget(label[8:-1])
        else:
            return self.try_step(label, args, fail)
        return OKAY

    def _forget_epochs(self) -> None:
        T = self.T
        keep = {T["frame.epoch"][f] for f in range(self.size.frames) if T["frame.use"][f] == self.m["Use"]["ram"]}
        keep |= {
            T["translation.epoch"][t]
            for t in range(self.size.translations)
            if T["translation.present"][t] or T["translation.cached"][t]
        }
        for e in range(len(T["past"])):
            T["past"][e] = int(e in keep)

    def _forget_lives(self) -> None:
        """Lives are fresh again, and without offers."""
        T = self.T
        absent = self.m["Phase"]["absent"]
        keep = {T["domain.life"][d] for d in range(NOBODY) if T["domain.phase"][d] != absent}
        keep |= {T["built.life"][d] for d in range(NOBODY) if T["built.known"][d]}
        keep |= {
            T["mapping.granter_life"][h] for h in range(self.size.handles) if T["mapping.host"][h] or T["mapping.device"][h]
        }
        keep |= {T["frame.secret"][f] for f in range(self.size.frames) if T["frame.content"][f] == 1}
        for f in range(self.size.frames):
            if T["placed.life"][f] not in keep:
                T["placed.what"][f] = 0
        for life in range(len(T["spent"])):
            if life not in keep:
                T["spent"][life] = 0
                for name in ("offered", "offered_rw", "invited"):
                    block = len(T[name]) // self.size.lives
                    T[name][life * block : (life + 1) * block] = [0] * block
                for f in range(self.size.frames):
                    T["remains"][f * self.size.lives + life] = 0

    def _forget_visits(self) -> None:
        """Visits are fresh again, and nothing was opened for them."""
        T, size = self.T, self.size
        there = [n for n in range(size.nodes) if T["node.exists"][n]]
        keep = {T["store_ring.visit"][d] for d in range(NOBODY) if T["store_ring.introduced"][d]}
        keep |= {T["node.visit"][n] for n in there if T["node.owner"][n] != DOM0}
        for k, given in enumerate(T["perm.given"]):
            if given and T["node.exists"][k // (NOBODY + 1)]:
                keep.add(T["perm.visit"][k])
            elif given:
                T["perm.given"][k] = 0
        for v in set(range(size.visits)) - keep:
            T["visited"][v] = 0
            for name in ("opened_for", "opened_for_writing", "was_read_by", "was_written_by"):
                for n in range(size.nodes):
                    T[name][n * size.visits + v] = 0

    def _forget_turns(self) -> None:
        """There is one build at a time."""
        T = self.T
        for turn in range(len(T["turns_past"])):
            T["turns_past"][turn] = int(turn == T["turn"][0])

    def _forget_what_was_told(self) -> None:
        """This ghost state of XenStore only grows in the rules; forgotten, it shows what one request tells."""
        for name in ("told", "learned"):
            self.T[name][:] = [0] * len(self.T[name])


FORGET: Final[dict[str, Callable[[RuleState], None]]] = {
    "epochs": RuleState._forget_epochs,
    "lives": RuleState._forget_lives,
    "visits": RuleState._forget_visits,
    "turns": RuleState._forget_turns,
    "what was told": RuleState._forget_what_was_told,
}


__all__ = ["RuleState"]

"""A seeded scheduler that interleaves vCPUs at the points where Xen drops a lock or flushes.

Contents: tasks (hypercall generators, or a guest's own stores), the choice of the next task, and the record
of the choices. Not here: the meaning of a yield to the operation. At markers of `HELD` the operation still holds
the entry's lock: other hypercalls wait and only guest stores may run, as on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from random import Random
from typing import Final

HELD: Final = frozenset({"set_status.cmpxchg", "set_status.recheck"})
Steps = Generator[str, None, object]


class Task:
    """One thing that runs in steps: a vCPU's hypercall, or (`guest` true) stores of a running guest."""

    __slots__ = ("done", "guest", "marker", "name", "result", "steps")

    def __init__(self, name: str, steps: Steps, guest: bool) -> None:
        self.name = name
        self.steps = steps
        self.guest = guest
        self.result: object = None
        self.done = False
        self.marker = ""


class Scheduler:
    """Runs tasks to their end in a random order; the same seed gives the same run."""

    __slots__ = ("history", "on_step", "rng", "tasks")

    def __init__(self, seed: int, on_step: Callable[[], None] | None = None) -> None:
        self.rng = Random(seed)
        self.tasks: list[Task] = []
        self.history: list[tuple[str, str]] = []
        self.on_step = on_step

    def add(self, name: str, steps: Steps, guest: bool = False) -> Task:
        """Add a task; it starts when first chosen."""
        task = Task(name, steps, guest)
        self.tasks.append(task)
        return task

    def runnable(self) -> list[Task]:
        """The tasks that may run now: all, or, while a lock is held, its holder and guest stores."""
        alive = [task for task in self.tasks if not task.done]
        holder = next((task for task in alive if task.marker in HELD), None)
        if holder is None:
            return alive
        return [task for task in alive if task is holder or task.guest]

    def step(self) -> bool:
        """Run one task to its next yield; False when all are done."""
        candidates = self.runnable()
        if not candidates:
            return False
        task = self.rng.choice(candidates)
        try:
            task.marker = next(task.steps)
        except StopIteration as stop:
            task.result = stop.value
            task.done = True
            task.marker = ""
        self.history.append((task.name, task.marker))
        if self.on_step is not None:
            self.on_step()
        return True

    def run(self, limit: int = 1_000_000) -> bool:
        """Run until all tasks are done; False if `limit` steps were not enough."""
        for _ in range(limit):
            if not self.step():
                return True
        return not self.runnable()

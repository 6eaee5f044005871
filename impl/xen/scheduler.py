"""A seeded scheduler that interleaves vCPUs at the points where Xen drops a lock or flushes.

What lives here: tasks (hypercall generators, or a guest's own stores), the choice of who runs next, and the record
of the choices. What does not: what a yield means to the operation. At markers of `HELD` the operation still holds
the entry's lock: then other hypercalls wait and only guest stores may slip in, as on hardware.
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
    """Runs tasks to their end in an order drawn from a seed; the same seed gives the same run."""

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
        """Who may run now: everybody, or, while a lock is held, its holder and guest stores."""
        alive = [task for task in self.tasks if not task.done]
        holder = next((task for task in alive if task.marker in HELD), None)
        if holder is None:
            return alive
        return [task for task in alive if task is holder or task.guest]

    def step(self) -> bool:
        """Let one task run to its next yield; False when all are done."""
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

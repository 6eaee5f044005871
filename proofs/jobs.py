"""How a worker process begins, in whatever pool it is."""

from __future__ import annotations

import gc
import signal


def begin() -> None:
    """Ctrl-C is for the parent, which ends its workers. Rules and states live long: looking for cycles is in vain."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(500_000, 20, 20)

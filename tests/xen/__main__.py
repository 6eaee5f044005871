"""`python -m tests.xen` (`make xen`): builds and tests the rig, runs the attack, and compares some calls.

Exit status: 0 success, or the rig is unavailable here (one line gives the reason); 1 a difference or a failure.
"""

from __future__ import annotations

import sys
import time
from typing import Final

import pytest

from tests.xen import attack, campaign
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.rig import images

SEEDS: Final = (1, 2)
OPS: Final = "2000"


def main() -> int:
    """Everything, in order."""
    try:
        started = time.monotonic()
        made = images()
        ready = time.monotonic() - started
        with Machine(made) as machine:
            print(
                f"Real Xen: packages and images {ready:.1f} s, boot to the first call {machine.boot_seconds:.1f} s.",
                flush=True,
            )
    except Unavailable as exc:
        print(f"Skipped: {exc}.")
        return 0
    except RigFailed as exc:
        print(exc.text(), file=sys.stderr)
        return 1
    codes = [pytest.main(["-q", "-m", "xen", "tests/xen/test_real.py"]), attack.main([])]
    codes += [campaign.main(["--seed", str(seed), "--ops", OPS]) for seed in SEEDS]
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())

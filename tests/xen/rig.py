"""The rig's packages and images on this machine, made at the first use."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.xen.build import Images, build
from tests.xen.packages import default_cache, provide

BUILD: Final = Path(__file__).resolve().parents[2] / "build" / "xen"


def images(fetch: bool = True) -> Images:
    """Packages and build products; Unavailable with one line. With `fetch` false nothing is downloaded."""
    return build(provide(default_cache(), fetch=fetch), BUILD)

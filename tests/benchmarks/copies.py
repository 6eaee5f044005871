"""Many copies of the small rule set side by side in one system, each with names of its own: how the cost of a proof grows.

`python -m tests.benchmarks.copies N FILE` writes them to a file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bulkhead.model.parser import parse_file

GT = Path(__file__).resolve().parent / "gt.rules"


def copies(count: int) -> str:
    """A rules file with so many copies of `gt.rules` and one system `copies` that uses all of them."""
    parsed, text = parse_file(GT)
    (component,) = parsed.components
    (system,) = parsed.systems
    body = "\n".join(text.split("\n")[: system.span.line - 1])
    body = re.sub(r"(?m)^scope .*$", "", body)  # each copy would give `Call` a size anew
    named = [str(name) for i in component.items if (name := getattr(i, "name", ""))]
    word = re.compile(rf"(?<![.\w])({'|'.join(sorted({component.name, *named}))})\b")
    parts = [word.sub(lambda found, k=k: f"{found[1]}_{k}", body) for k in range(count)]  # type: ignore[misc]
    uses = ", ".join(f"{component.name}_{k}" for k in range(count))
    expects = ", ".join(f"{theorem.text}_{k}" for k in range(count) for _, theorem in system.expects)
    return "\n".join([*parts, f'system copies "{count} copies."', f"    uses {uses}", f"    expect proved {expects}", ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(copies(int(sys.argv[1])), encoding="utf-8")

"""Random systems have every form of the language in them: what none of them contains is compared by nobody.

The forms come from the grammar, the syntax tree and the tables of the reference, so that a new form needs a generator.
"""

from __future__ import annotations

import re

import pytest

from tests.oracle import random_items
from tests.oracle.coverage import REFERENCE, ROWS, report

SYSTEMS = 500
CHAPTERS = ("## 2.", "## 3.", "## 4.", "## 5.", "## 6.", "## 7.")  # what rules can say; not the library, not messages


def test_no_form_is_in_no_random_system() -> None:
    text, absent = report(range(SYSTEMS))
    assert absent == []
    assert int(text.split(" systems", 1)[0].split()[-1]) > SYSTEMS * 0.85


def test_each_row_of_the_reference_is_a_form() -> None:
    """The first cells of all tables of the chapters on the language."""
    rows: list[str] = []
    within = False
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            within = line.startswith(CHAPTERS)
        if within and line.startswith("| `"):
            rows.append(re.split(r"(?<!\\)\|", line)[1].strip())
    assert sorted(rows) == sorted(ROWS) and len(rows) > 50


def test_a_form_that_is_not_generated_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_items, "KINDS", tuple(k for k in random_items.KINDS if k != "guest"))
    text, absent = report(range(20))
    assert "row `guest`: KIND guest" in absent and "QUANT forall" in text

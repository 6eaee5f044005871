"""Very long and very deep rules: each file ends in a verdict or in a message with a code, never in an internal error.

What recursion could exhaust is tried here: nesting, chains of definitions and procedures, many steps, operations that
enable each other one by one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.model.diagnostics import RulesError
from bulkhead.model.loader import load
from bulkhead.proofs.theorems.explore import explore
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.vacuity import Checker

HEAD = """
component c "c"
sort T "t"
state p[T]: bool
state q[T]: bool
state at_start: bool
init at_start and forall t: T. not p[t] and not q[t]
"""
OP = "internal op(t: T) require not q[t] else E set p[t] = true\n"
OK = "theorem ok forall t: T. not q[t]\n"
END = '\nsystem y "y" uses c expect proved ok\n'
N = 1500


def chained(form: str, count: int, first: str) -> str:
    """A first line, and lines that each speak of the one before."""
    return first + "".join(form.format(k=k, before=k - 1) for k in range(1, count))


DEEP = {  # text, and the code of the message that it gets
    "brackets": (OP + "theorem ok forall t: T. not q[t] or " + "(" * N + "p[t]" + ")" * N, "E0108"),
    "not": (OP + "theorem ok forall t: T. not q[t] or " + "not " * N + "p[t]", "E0108"),
    "and": (OP + "theorem ok forall t: T. not q[t]" + " and not q[t]" * N, "E0110"),
    "implies": (OP + "theorem ok forall t: T. " + "q[t] implies " * N + "q[t]", "E0108"),
    "if": (OP + "theorem ok forall t: T. " + "if q[t] then true else " * N + "not q[t]", "E0108"),
    "quantifiers": (OP + "theorem ok " + "".join(f"forall t{k}: T. " for k in range(N)) + "not q[t0]", "E0108"),
    "define": (
        OP + chained("define d{k}(t: T) = d{before}(t)\n", N, "define d0(t: T) = not q[t]\n") + OK,
        "E0205",
    ),
    "perform": (
        chained("procedure p{k}(t: T)\n perform p{before}(t)\n", N, "procedure p0(t: T)\n set p[t] = true\n")
        + f"internal op(t: T)\n perform p{N - 1}(t)\n"
        + OK,
        "E0422",
    ),
    "undo perform": (
        chained("procedure p{k}(t: T)\n perform p{before}(t)\n", N, "procedure p0(t: T)\n set p[t] = false\n")
        + f"internal op(t: T)\n require not q[t] else E undo perform p{N - 1}(t) end\n"
        + OK,
        "E0422",
    ),
}
LONG = {
    "checks": "internal op(t: T)\n" + " require not q[t] else E\n" * 300 + " set p[t] = true\n" + OK,
    "checks that undo": "enum K = "
    + " | ".join(f"m{k}" for k in range(150))
    + "\nstate now: K\ninternal go(to: K) set now = to\ninternal op(t: T)\n"
    + "".join(f" require now != m{k} else E{k} undo set p[t] = false end\n" for k in range(149))
    + " set p[t] = true\n"
    + OK,
    "arguments": "enum K = "
    + " | ".join(f"m{k}" for k in range(30))
    + "\nstate s[K]: bool\ninit forall k: K. not s[k]\ninternal mark(k: K) set s[k] = true\ninternal op(t: T, "
    + ", ".join(f"a{k}: K" for k in range(15))
    + ")\n require "
    + "".join(f"s[a{k}] and " for k in range(15))
    + "distinct("
    + ", ".join(f"a{k}" for k in range(15))
    + ") else E\n set p[t] = true\n"
    + OK,
    "assignments": "internal op(t: T)\n" + " set p[t] = true\n" * N + OK,
    "lets": "internal op(t: T)\n"
    + chained(" let l{k} = l{before}\n", N, " let l0 = t\n")
    + f" set p[l{N - 1}] = true\n"
    + OK,
    "operations": chained(
        "state r{k}: bool\ninit not r{k}\ninternal op{k}()\n require r{before} else E\n set r{k} = true\n",
        400,
        "state r0: bool\ninit not r0\ninternal op0()\n set r0 = true\n",
    )
    + OK,
    "members": "enum K = " + " | ".join(f"m{k}" for k in range(300)) + "\nstate e[T]: K\n" + OP + OK,
    "fields": "state r[T]: { " + ", ".join(f"m{k}: bool" for k in range(N)) + "}\n" + OP + OK,
}


def written(folder: Path, text: str) -> str:
    file = folder / "deep.rules"
    file.write_text(HEAD + text + END, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("name", DEEP)
def test_what_is_too_deep_is_said(name: str, tmp_path: Path) -> None:
    text, code = DEEP[name]
    with pytest.raises(RulesError) as found:
        load(written(tmp_path, text))
    assert code in {p.code for p in found.value.problems}


@pytest.mark.parametrize("name", LONG)
def test_what_is_long_is_decided(name: str, tmp_path: Path) -> None:
    system = load(written(tmp_path, LONG[name]))
    proof = prove(system, Settings(jobs=1, cross_check=False))
    assert proof.proved == {"ok"}
    assert not Checker(system, 10.0).result(proof.standing).errors()


def test_a_place_with_more_values_than_a_byte_is_said(tmp_path: Path) -> None:
    """It once ended in an OverflowError."""
    system = load(written(tmp_path, LONG["members"]))
    with pytest.raises(ValueError, match="`K` has 300 members"):
        explore(system, first_scope(system))

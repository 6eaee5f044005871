"""Two solvers behind one interface: a session that reads and decides SMT-LIB text.

`Z3Session` and `Cvc5Session` keep declarations and assertions between calls, so that a prelude is read once and a
query costs only its own text. An answer is `sat`, `unsat` or `unknown`; errors of a solver are raised, never taken as an
answer.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


class SolverError(Exception):
    """A solver refused a text or crashed; the message is the solver's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A solver's answer to one query, and its time in seconds. `core` names the assertions that it used."""

    verdict: str
    core: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class Spent:
    """Adds up the seconds that are spent in solvers, for questions that do not go through a `Session`."""

    seconds: float = 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is done inside."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun


class Session(Protocol):
    """A solver with incremental state."""

    name: str

    def tell(self, text: str) -> None:
        """Add declarations and assertions."""

    def ask(self, text: str = "") -> Answer:
        """Add `text`, decide satisfiability of everything added, and remove `text` again."""


# Pattern-based instantiation alone refutes our queries a hundred times as fast as the defaults; open queries are
# asked again with the defaults, which also find models. Z3 reads these settings when a context is created.
FAST = {"smt.mbqi": False, "smt.auto_config": False, "smt.qi.eager_threshold": 3.0}
EAGERNESS = (3.0, 1.0, 5.0)  # tried in turn, each in a new session, for a query that a long session leaves open
FAST_LIMIT = 0.5
FAST_EFFORT = 1_500_000  # as a resource limit, about as much
DEFAULTS = {"smt.mbqi": True, "smt.auto_config": True, "smt.qi.eager_threshold": 10.0}


# The logic of our formulas: with `ALL`, cvc5 spends time on unused theories. Less rewriting of quantifiers is faster;
# enumerative instantiation decides queries that pattern-based instantiation leaves open.
CVC5_LOGIC = "UFDT"
CVC5_REFUTING = ("enum-inst true", "prenex-quant none", "miniscope-quant off")
CVC5_FINITE = ("finite-model-find true",)
CVC5_INTERLEAVED = (*CVC5_REFUTING, "enum-inst-interleave true")


UNLIMITED = "(set-option :timeout 4294967295)(set-option :rlimit 0)"


def bounded(seconds: float = math.inf, effort: int = 0) -> str:
    """Options of Z3 that bound a query by time, or by its resource limit, or by both; no bound without either.

    They go before a query, and `UNLIMITED` behind it: Z3 keeps them for the whole process, also for sessions that begin
    later, and they would stop the reading of a text in the middle.
    """
    time_bound = f"(set-option :timeout {max(1, int(seconds * 1000))})" if math.isfinite(seconds) else ""
    return time_bound + (f"(set-option :rlimit {effort})" if effort else "")


class Z3Session:
    """Z3 through its SMT-LIB command interface. `limit` is the time for one query, in seconds; or `effort` is Z3's
    resource limit, so that the same run has the same answers on every machine.

    `fast` sessions are for refutation only: their `sat` counts as `unknown`.
    """

    name = "z3"

    def __init__(
        self, limit: float = 10.0, cores: bool = True, fast: bool = False, eager: float = 3.0, effort: int = 0
    ) -> None:
        import z3  # slow to import, and not needed without a solver

        self._z3 = z3
        for key, value in ({**FAST, "smt.qi.eager_threshold": eager} if fast else DEFAULTS).items():
            z3.set_param(key, value)
        self._context = z3.Context()
        self._cores = cores
        self._fast = fast
        self._limited = bounded(effort=effort) if effort else bounded(limit)
        if cores:
            self.tell("(set-option :produce-unsat-cores true)")

    def _eval(self, text: str) -> str:
        try:
            out: str = self._z3.Z3_eval_smtlib2_string(self._context.ref(), text)
        except self._z3.Z3Exception as error:
            raise SolverError(f"z3: {error}") from None
        if "(error" in out and "unsat core is not available" not in out:
            raise SolverError(f"z3: {out.strip()}")
        return out

    def tell(self, text: str) -> None:
        self._eval(text)

    def ask(self, text: str = "") -> Answer:
        start = time.perf_counter()
        self._eval("(push)\n" + text)
        # The limit covers only deciding: on a busy machine, reading a text may take longer than the limit.
        out = self._eval(self._limited + "(check-sat)").split()
        self._eval(UNLIMITED)
        verdict = out[0] if out else "unknown"
        core: tuple[str, ...] = ()
        if verdict == "unsat" and self._cores:
            core = tuple(re.findall(r"[^\s()]+", self._eval("(get-unsat-core)")))
        self._eval("(pop)")
        if verdict not in ("sat", "unsat") or (self._fast and verdict == "sat"):
            verdict = "unknown"
        return Answer(verdict, core, time.perf_counter() - start)


class Cvc5Session:
    """cvc5 through its SMT-LIB parser. `limit` is the time for one query, in seconds; `options` say how cvc5 searches."""

    name = "cvc5"

    def __init__(self, limit: float = 10.0, options: tuple[str, ...] = CVC5_REFUTING) -> None:
        import cvc5  # slow to import; not needed without the cross-check

        self._cvc5 = cvc5
        self._solver = cvc5.Solver(cvc5.TermManager())
        self._parser = cvc5.InputParser(self._solver)
        self._symbols = self._parser.getSymbolManager()
        self._run(
            f"(set-logic {CVC5_LOGIC})(set-option :incremental true)"
            f"(set-option :tlimit-per {max(1, int(limit * 1000))})"
            + "".join(f"(set-option :{option})" for option in options)
        )

    def _run(self, text: str) -> str:
        self._parser.setStringInput(self._cvc5.InputLanguage.SMT_LIB_2_6, text, "query")
        out: list[str] = []
        try:
            while True:
                command: Any = self._parser.nextCommand()
                if command.isNull():
                    return "".join(out)
                out.append(str(command.invoke(self._solver, self._symbols)))
        except RuntimeError as error:
            raise SolverError(f"cvc5: {error}") from None

    def tell(self, text: str) -> None:
        out = self._run(text)
        if "(error" in out:
            raise SolverError(f"cvc5: {out.strip()}")

    def ask(self, text: str = "") -> Answer:
        start = time.perf_counter()
        out = self._run("(push 1)\n" + text + "\n(check-sat)\n(pop 1)\n")
        if "(error" in out:
            raise SolverError(f"cvc5: {out.strip()}")
        words = out.split()
        verdict = next((w for w in words if w in ("sat", "unsat")), "unknown")
        return Answer(verdict, (), time.perf_counter() - start)

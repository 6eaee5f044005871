"""Two solvers behind one small interface: a session that reads SMT-LIB text and answers it.

`Z3Session` and `Cvc5Session` keep declarations and assertions between calls, so that a prelude is read once and each
query costs its own text only. An answer is `sat`, `unsat` or `unknown`; errors of a solver are raised, never read as an
answer.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Protocol


class SolverError(Exception):
    """A solver refused a text or broke; the message is its own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solver says of one query, and how long it took in seconds. `core` names the assertions it used."""

    verdict: str
    core: tuple[str, ...] = ()
    seconds: float = 0.0


class Session(Protocol):
    """A solver that remembers what it has been told."""

    name: str

    def tell(self, text: str) -> None:
        """Take in declarations and assertions."""

    def ask(self, text: str = "") -> Answer:
        """Take in `text`, decide satisfiability of all that has been told, and forget `text` again."""


# Pattern-based instantiation alone refutes our queries a hundred times as fast as the defaults; what it leaves open is
# asked again with the defaults, which also find models. Z3 reads these when a context is made.
FAST = {"smt.mbqi": False, "smt.auto_config": False, "smt.qi.eager_threshold": 3.0}
EAGERNESS = (3.0, 1.0, 5.0)  # tried in turn by a session of its own for a query that a long session leaves open
FAST_LIMIT = 0.5
DEFAULTS = {"smt.mbqi": True, "smt.auto_config": True, "smt.qi.eager_threshold": 10.0}


# What our formulas are made of: with `ALL`, cvc5 keeps theories busy that nothing speaks of. It takes less to rewrite our
# quantifiers less; what instantiation by patterns leaves open, instantiation by enumeration decides.
CVC5_LOGIC = "UFDT"
CVC5_REFUTING = ("enum-inst true", "prenex-quant none", "miniscope-quant off")
CVC5_FINITE = ("finite-model-find true",)


UNLIMITED = "(set-option :timeout 4294967295)"


class Z3Session:
    """Z3 through its SMT-LIB command interface. `limit` is the time for one query, in seconds.

    `fast` sessions are for refutation only: their `unknown` says nothing, their `sat` is read as `unknown`.
    """

    name = "z3"

    def __init__(self, limit: float = 10.0, cores: bool = True, fast: bool = False, eager: float = 3.0) -> None:
        import z3  # slow to load; what asks no solver does without

        self._z3 = z3
        for key, value in ({**FAST, "smt.qi.eager_threshold": eager} if fast else DEFAULTS).items():
            z3.set_param(key, value)
        self._context = z3.Context()
        self._cores = cores
        self._fast = fast
        self._limited = f"(set-option :timeout {max(1, int(limit * 1000))})"
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
        # The time is for deciding only: on a busy machine a text may take longer to read than a query may to decide.
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
    """cvc5 through its SMT-LIB parser. `finite` asks for finite counter-models instead of refutations."""

    name = "cvc5"

    def __init__(self, limit: float = 10.0, finite: bool = False) -> None:
        import cvc5  # slow to load; not needed without the cross-check

        self._cvc5 = cvc5
        self._solver = cvc5.Solver(cvc5.TermManager())
        self._parser = cvc5.InputParser(self._solver)
        self._symbols = self._parser.getSymbolManager()
        self._run(
            f"(set-logic {CVC5_LOGIC})(set-option :incremental true)"
            f"(set-option :tlimit-per {max(1, int(limit * 1000))})"
            + "".join(f"(set-option :{option})" for option in (CVC5_FINITE if finite else CVC5_REFUTING))
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

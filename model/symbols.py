"""Solver symbols for the names in rules: this module makes all of them.

A name in rules consists of letters, digits and `_`; a local of a call or a field also has a dot. Every symbol begins
with a mark that no such name can begin with, one mark per kind. So a user's `and`, `Bool`, `goal` or `x0`
never has a special meaning to a solver, and a user cannot write a name that the engine generates. These symbols appear
only in formulas; people see the names of the rules.

    $Domain  $entry.kind  $alive   sorts; state functions; definitions
    %dom0  %running                constants and members of enums
    ?caller                        variables: parameters, picked values, bound variables
    &0                             the arguments of a state function after a step
    $entry.kind+  $alive+          the same after a step
    $entry.kind@2  arg@2@0@Domain  in bounded searches: the state after two steps, arguments of the step from it
"""

from __future__ import annotations

BOOL = "bool"
NEXT = "+"
_BRACKETS = str.maketrans({"(": "<", ")": ">", ",": "+", " ": None})


def sort(name: str) -> str:
    """A sort; `bool` is the solver's own."""
    return "Bool" if name == BOOL else "$" + name


def function(name: str) -> str:
    """A state function or a definition, before a step."""
    return "$" + name


def after(symbol: str) -> str:
    """The symbol of a state function or a definition, read after a step."""
    return symbol + NEXT


def before(symbol: str) -> str:
    """The symbol without the mark for the state after a step."""
    return symbol.removesuffix(NEXT)


def literal(name: str, sort_name: str) -> str:
    """A constant, an enum member, or a truth value of the language."""
    return name if sort_name == BOOL and name in ("true", "false") else "%" + name


def variable(name: str) -> str:
    """A parameter, a picked value or a bound variable."""
    return "?" + name


def at(symbol: str, steps: int) -> str:
    """The symbol of a state function or a definition, read in the state after so many steps."""
    return f"{symbol}@{steps}"


def slot(number: int) -> str:
    """An argument of a state function, in its redefinition after a step."""
    return f"&{number}"


def assumption(kind: str, name: str) -> str:
    """The name of an assertion: a claim, or a part of a guard. Arguments of a component stand between `<` and `>`."""
    return f"{kind}/{name.translate(_BRACKETS)}"


__all__ = ["NEXT", "after", "assumption", "at", "before", "function", "literal", "slot", "sort", "variable"]

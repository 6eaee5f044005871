"""Architecture: no import cycles, no imports hidden in functions, and one package for everything.

`.importlinter` checks the imports between packages (`make lint`); these are the rules that it cannot express.
"""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
from pathlib import Path

import grimp

from bulkhead.model import cache
from bulkhead.model.loader import load, shipped_systems

ROOT = Path(__file__).parent.parent
PARTS = ("spec", "model", "impl", "proofs")


def sources(*parts: str) -> list[Path]:
    return [p for part in parts for p in sorted((ROOT / part).rglob("*.py"))]


def test_no_circles() -> None:
    """The modules of `model/` and `proofs/` have a topological order of their imports, those for types included."""
    graph = grimp.build_graph("bulkhead.model", "bulkhead.proofs", cache_dir=None)
    order = graphlib.TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in graph.modules})
    order.prepare()  # raises CycleError with the modules of a cycle


def test_a_cached_tree_depends_on_every_file_that_made_it() -> None:
    """The key of cached syntax trees holds each module that the parser uses; messages about errors make no tree."""
    graph = grimp.build_graph("bulkhead.model", cache_dir=None)
    used = graph.find_upstream_modules("bulkhead.model.parser") | {"bulkhead.model.parser"}
    no_tree = {"cache", "syntax_errors", "foreign"}
    assert {name.rpartition(".")[2] for name in used} - no_tree == set(cache.CODE)


def test_imports_inside_functions_have_a_reason() -> None:
    """An import inside a function needs a comment with the reason, on its line or the one above: slow and rarely needed."""
    for path in sources(*PARTS):
        text = path.read_text()
        lines = text.splitlines()
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [n.lineno for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
                if hidden:  # one reason is enough for a block of imports
                    first = min(hidden)
                    assert "#" in lines[first - 1] or lines[first - 2].strip().startswith("#"), f"{path}:{first}"


def test_everything_is_in_the_package() -> None:
    """Each folder with Python in it is listed for the wheel, and nothing is imported by a name outside `bulkhead`."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for p in sources(*PARTS)}
    assert listed == {"bulkhead." + ".".join(f.parts) for f in folders}
    for path in sources(*PARTS, "tests"):
        for line in path.read_text().splitlines():
            assert not re.match(r"\s*(from|import) (spec|model|impl|proofs)\b", line), f"{path}: {line}"


def test_files_have_a_docstring() -> None:
    """Every file has a docstring; empty `__init__.py` are allowed."""
    for path in sources(*PARTS, "tests"):
        text = path.read_text()
        assert not text.strip() or ast.get_docstring(ast.parse(text)), path


# Nothing here may know what the shipped rules are about, but the adapter for readable hypervisor pictures and logs.
GENERAL = ("model", *(f"proofs/{room}" for room in ("theorems", "certify", "symbolic", "results", "report", "cli")))
ADAPTER = {"proofs/report/hypervisor_scene.py", "proofs/report/element_names.py"}
COINCIDENCES = {  # words that mean something else there
    ("proofs/cli/output.py", "file"),  # an argument of the command line
    ("proofs/report/junit.py", "file"),  # an attribute of JUnit XML
    ("proofs/report/prove_text.py", "right"),  # where a column of a table stands
    ("proofs/report/sarif.py", "version"),  # a key of SARIF
    ("proofs/symbolic/terms.py", "translated"),  # a term in the form that bit-vector solvers want
    ("proofs/report/trace_text.py", "file"),  # a key of the head of a trace
}


def test_only_the_adapter_names_what_the_shipped_rules_declare() -> None:
    """No text in the code is the name of a sort, a state, a field or an operation of the shipped systems."""
    names: set[str] = set()
    for system in map(load, shipped_systems()):
        names |= system.sorts.keys() | system.funcs.keys() | {f.partition(".")[0] for f in system.funcs}
        names |= {step.op for step in system.steps} | {t.label for step in system.steps for t in step.outcomes()}
    names -= {"Call", "Point", "at", "idle"}  # of the language
    assert {"Domain", "translation.frame", "map_grant_ref"} <= names
    found = set()
    for path in sources(*GENERAL):
        tree = ast.parse(path.read_text())
        where = path.relative_to(ROOT).as_posix()
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        for statement in tree.body:  # a list of the module's own names
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                words -= set(ast.literal_eval(statement.value))
        found |= {(where, w) for w in words & names}
    assert {where for where, _ in found} >= ADAPTER
    assert {(where, w) for where, w in found if where not in ADAPTER} == COINCIDENCES

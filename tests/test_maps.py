"""The folders' READMEs: each names every file of its folder, and no file, module or name that does not exist.

Checked are the files of a folder, the names in backquotes, `python -m ...`, links, and Python
examples, which are run. Not checked: whether a file matches its description.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"build", "__pycache__"}
SOURCES = {".py", ".rules", ".lark", ".c", ".h", ".S", ".lds", ".pml"}
NAMED = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|rules|lark|c|h|S|lds|pml|json|toml|lock|svg|md))`")
# Names of files that a reader creates or that a command writes; they are not files of the project.
EXAMPLES = {"share.rules", "trace.rules", "my.rules", "attack/overview.svg", "overview.svg", "step-N.svg"}


def files_of_the_house() -> list[Path]:
    """Every source file and README, relative to the root, without generated files."""
    tops = [ROOT / part for part in ("spec", "model", "impl", "proofs", "tests", ".github")]
    found = [p for p in (*ROOT.iterdir(), *(p for top in tops for p in top.rglob("*"))) if p.is_file()]
    return sorted(p.relative_to(ROOT) for p in found if not LEFT_OUT & set(p.relative_to(ROOT).parts))


HOUSE = files_of_the_house()
READMES = [p for p in HOUSE if p.name in ("README.md", "CONTRIBUTING.md", "HOW_IT_WORKS.md")]
MAPS = [p for p in HOUSE if p.name == "README.md" and p.parent != Path()]


def mine(readme: Path) -> list[Path]:
    """The sources that a README must name: those below its folder for which it is the nearest README."""
    nearer = [m.parent for m in MAPS if m != readme and readme.parent in m.parents]
    return [
        p
        for p in HOUSE
        if readme.parent in p.parents
        and p.suffix in SOURCES
        and p.name != "__init__.py"
        and not any(folder in p.parents for folder in nearer)
    ]


def ends_with(path: Path, name: str) -> bool:
    return path.as_posix() == name or path.as_posix().endswith("/" + name)


@pytest.mark.parametrize("readme", MAPS, ids=str)
def test_a_map_names_every_file_of_its_folder(readme: Path) -> None:
    """A file is named by its name, by a pattern for a family (`xen/hypercall*.py`), or by its folder (`traps/`)."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    words = re.findall(r"`([^`\s]+)`", text)
    patterns = [w for w in words if "*" in w]
    folders = [w for w in words if w.endswith("/")]

    def is_named(path: Path) -> bool:
        below = path.relative_to(readme.parent)
        return (
            f"`{path.name}`" in text
            or any(ends_with(path, w) for w in words)
            or any(below.match(w) for w in patterns)
            or any(below.as_posix().startswith(w) for w in folders)
        )

    assert [str(p) for p in mine(readme) if not is_named(p)] == [], f"{readme} does not name them"


@pytest.mark.parametrize("readme", MAPS, ids=str)
def test_a_map_names_the_rooms_below_it(readme: Path) -> None:
    """The parent README names each package below it: `name/` or a link to its README."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    below = [m.parent for m in MAPS if m != readme and readme.parent in m.parents]
    nearest = [f for f in below if not any(other in f.parents for other in below)]
    missing = [str(f) for f in nearest if f"{f.relative_to(readme.parent).as_posix()}/" not in text]
    assert missing == [], f"{readme} does not lead there"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_what_is_named_is_there(readme: Path) -> None:
    """Files, folders of links, and modules to run. A README's own folder is searched first, then the whole project."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    gone = [
        n
        for n in NAMED.findall(text)
        if n not in EXAMPLES
        and not n.startswith("build/")
        and not any(ends_with(p, n.removeprefix("../").removeprefix("../")) for p in HOUSE)
    ]
    assert gone == []
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    assert [t for t in links if not (ROOT / readme.parent / t).exists()] == []
    modules = [m for m in re.findall(r"python -m ([\w.]+)", text) if m not in ("pytest", "venv", "pip")]
    assert [m for m in modules if find_spec(m) is None] == []


@pytest.mark.parametrize("readme", [p for p in READMES if "```python" in (ROOT / p).read_text(encoding="utf-8")], ids=str)
def test_python_examples_run(readme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for code in re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, str(readme), "exec"), {})  # an example that raises is wrong

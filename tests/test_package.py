"""The installed package: a wheel in a fresh environment, beside another `model/` package; and the source distribution.

Both are built from the files in git, in a separate folder, so that they cannot use this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RULES = """component c "c"
sort T "t"
state used[T]: bool
init forall t: T. not used[t]
internal use(t: T)
    require not used[t] else EBUSY
    set used[t] = true
transition for_good forall t: T. used[t] implies next(used[t])
theorem never forall t: T. not used[t]
system mine "mine" uses c expect proved for_good expect refuted never
"""


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(words, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's files in git, or those of an unpacked source distribution."""
    copy = tmp_path_factory.mktemp("source") / "bulkhead"
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    if listed.returncode:
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", "build", "__pycache__", "*.egg-info"))
        return copy
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    # Files in git go into the source distribution.
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        assert run(["git", *words], copy).returncode == 0
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)], source)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


@pytest.mark.slow
def test_the_wheel_is_one_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"bulkhead", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    for part in ("spec", "model", "impl", "proofs"):
        assert f"bulkhead/{part}/py.typed" in names
    assert "bulkhead/spec/language.lark" in names and "bulkhead/spec/xen/grants.rules" in names


@pytest.mark.slow
def test_the_wheel_works_beside_a_package_called_model(built: Path, tmp_path: Path) -> None:
    """Installed alone, in a folder with another `model/` package, a user's first commands work."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", symlinks=True, with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    # Dependencies come from the tests' environment, so that nothing is fetched; only the package itself is installed.
    site = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).stdout.strip()
    ours = [p for p in sys.path if p.endswith("site-packages")]
    installed = run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], tmp_path)
    assert installed.returncode == 0, installed.stderr
    home = tmp_path / "work"
    (home / "model").mkdir(parents=True)
    (home / "model" / "__init__.py").write_text("raise RuntimeError('this is the model of somebody else')\n")
    (home / "mine.rules").write_text(RULES)
    environment = {"PYTHONPATH": os.pathsep.join([site, *ours]), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def bulkhead(*words: str) -> str:
        done = run([str(python), "-m", "bulkhead.proofs.cli", *words], home, **environment)
        assert done.returncode == 0, f"{words}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done.stdout

    where = run([str(python), "-c", "import bulkhead.model.loader as m; print(m.__file__)"], home, **environment)
    assert where.stdout.startswith(site), where.stdout + where.stderr
    assert "no errors" in bulkhead("check", "mine.rules")
    assert "All verdicts are as expected." in bulkhead("prove", "mine.rules")
    assert "Attack on never of mine: 1 step" in bulkhead("attack", "mine.rules", "--out", "attack")
    assert "now never is false" in bulkhead("replay", "attack/trace.jsonl")
    assert "All verdicts are as expected." in bulkhead("prove", "disaggregated", "--no-cross-check")
    assert bulkhead("boot", "disaggregated")


@pytest.mark.slow
def test_the_source_distribution_holds_its_tests(built: Path, tmp_path: Path) -> None:
    """When unpacked, a part of its tests runs on its own files."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (home,) = tmp_path.iterdir()
    for name in (
        "Makefile",
        "requirements.lock",
        "LICENSE",
        "tests/test_traps.py",
        "tests/golden/blank.txt",
        "tests/recorded/v2-1.jsonl.xz",
        "spec/README.md",
        "tests/xen/README.md",
    ):
        assert (home / name).is_file(), name
    links = tmp_path / "links" / "bulkhead"
    links.mkdir(parents=True)
    for part in ("spec", "model", "impl", "proofs"):
        (links / part).symlink_to(home / part)
    done = run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/test_bad_rules.py",
            "tests/test_language.py",
        ],
        home,
        PYTHONPATH=str(links.parent),
    )
    assert done.returncode == 0, done.stdout[-1500:]

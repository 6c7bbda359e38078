# SPDX-License-Identifier: Apache-2.0
"""What is installed equals what is on disk, and starting splitguard stays quick."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"torch", "torchvision", "pandas", "pydantic", "numpy", "scipy", "sklearn", "plotly", "matplotlib"}
HELP_SECONDS = 0.5


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter; fails with what it printed if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"python {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def modules_loaded_by(*arguments: str) -> set[str]:
    """The top-level names of all modules that a run of this interpreter imports."""
    report = python("-X", "importtime", *arguments).stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in report.splitlines() if "|" in line}


def test_the_package_list_equals_the_disk() -> None:
    on_disk = {
        "splitguard" if path.parent == ROOT / "splitguard" else f"splitguard.{path.parent.name}"
        for folder in ("splitguard", "attacks", "defenses")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == on_disk


@pytest.mark.parametrize("folder", ["attacks", "defenses"])
def test_plugin_folders_are_mapped_linked_and_flat(folder: str) -> None:
    link = ROOT / "splitguard" / folder
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"splitguard.{folder}"] == folder
    assert link.is_symlink(), f"splitguard/{folder} must be a symlink to ../{folder}, for type checkers and editors"
    assert link.readlink() == Path("..", folder)
    assert [p for p in (ROOT / folder).rglob("*.py") if p.parent != ROOT / folder] == [], "plug-in folders stay flat"


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [version]
    assert re.findall(r"^## \[(\S+)\]", changes, re.MULTILINE)[:1] == [version]
    assert python("-c", "import splitguard; print(splitguard.__version__)").stdout.strip() == version


def pins() -> dict[str, str]:
    """The versions in constraints.txt, by canonical name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in wanted}


def test_every_pinned_version_installs_on_the_oldest_python_that_is_promised() -> None:
    from packaging.specifiers import SpecifierSet

    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    read = 0
    for name, pin in pins().items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if found.version.partition("+")[0] == pin:
            read += 1
            asks = found.metadata["Requires-Python"] or ""
            assert SpecifierSet(asks).contains(oldest), f"{name}=={pin} asks for Python {asks}; {oldest} is promised"
    assert read > len(pins()) / 2, "install with -c constraints.txt: most of what is here has other versions"


def test_every_dependency_is_pinned_inside_its_bounds() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = pins()
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, [*wanted, *PROJECT["build-system"]["requires"]]):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt does not pin {requirement.name}"
        assert "+" not in pin, f"{requirement.name}=={pin}: a local version exists on some machines only"
        assert requirement.specifier.contains(pin), f"{requirement} does not admit the pinned {pin}"


def test_importing_splitguard_is_light() -> None:
    assert not modules_loaded_by("-c", "import splitguard") & HEAVY


def test_help_is_light_and_quick() -> None:
    assert not modules_loaded_by("-m", "splitguard", "--help") & HEAVY
    seconds = []
    for _ in range(5):
        # Seconds of processor time, which on an idle machine are the seconds a person waits; here other tests run too.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("-m", "splitguard", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < HELP_SECONDS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that comes out of the source distribution, built without a network."""
    out = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(out))  # first the sdist, then the wheel from it
    [path] = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_what_the_tree_holds_and_nothing_else(wheel: Path) -> None:
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {
        ("splitguard" / path if folder != "splitguard" else path).as_posix()
        for folder in ("splitguard", "attacks", "defenses")
        for path in (p.relative_to(ROOT) for p in (ROOT / folder).rglob("*.py"))
    }
    templates = {p.relative_to(ROOT).as_posix() for p in (ROOT / "splitguard/reports/templates").iterdir()}
    assert templates, "splitguard/reports/templates is empty"
    assert files == code | templates | {"splitguard/py.typed"}


@pytest.mark.slow
def test_the_installed_wheel_finds_its_plugins(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    bin_ = tmp_path / "venv" / "bin"
    python("-m", "pip", "--python", str(bin_ / "python"), "install", "--no-deps", "--no-index", str(wheel))
    # The dependencies are borrowed from this environment. A .pth file inside a borrowed folder is not read, so an
    # editable install of the tree stays out of sight.
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    found = run(str(bin_ / "python"), "-c", "import splitguard.attacks as a; print(a.__file__)").strip()
    assert Path(found) == site / "splitguard" / "attacks" / "__init__.py"
    for kind in ("attacks", "defenses"):
        listed = run(str(bin_ / "splitguard"), "list", kind)
        assert listed == python("-m", "splitguard", "list", kind).stdout
        assert listed.strip()

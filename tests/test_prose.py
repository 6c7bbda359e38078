# SPDX-License-Identifier: Apache-2.0
"""No file of the project names a place that only one machine has."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Written so that this file does not match itself.
PLACES = {
    "a folder beside the checkout": re.compile(r"\.\." + r"/shared"),
    "the address or name of a package index": re.compile(
        r"-index-(url)|(find)-links|(PIP)_[A-Z_]*(INDEX|LINKS)|\b(py)pi\b|py(pi)\.org|python(hosted)|download\.py(torch)\.org"
        r"|registry\.n(pm)js",
        re.IGNORECASE,
    ),
    "a path of one machine": re.compile(
        r"(?<![\w.~$)}\]-])/(?:work|home|root|Users|opt|mnt|tmp)/\w|(?<!\w)[A-Z]:\\\\?Users"
    ),
    "a file address": re.compile(r"\bfile:" + r"///?\w"),
}
# The one place where tests look for real data beside the checkout, and its documentation.
ALLOWED = {("tests/conftest.py", "a folder beside the checkout")}


def project_files(root: Path) -> Iterator[Path]:
    """Every file that .gitignore does not leave out; its patterns are plain names and globs."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()] + [".git"]
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not any(fnmatch.fnmatch(f, pattern) for pattern in ignored)]
        for name in files:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored):
                yield Path(folder, name)


def named_places(root: Path) -> list[str]:
    """``file:line: what`` for every forbidden place that a text file under ``root`` names."""
    found = []
    for path in project_files(root):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # pictures and arrays
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(lines, start=1):
            for what, pattern in PLACES.items():
                if (name, what) not in ALLOWED and (hit := pattern.search(line)):
                    found.append(f"{name}:{number}: {what}: {hit.group()!r}")
    return sorted(found)


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    found = named_places(ROOT)
    assert not found, "\n".join(["these files name places that users do not have:", *found])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("see .." + "/shared/data", "a folder beside the checkout"),
        ("pip install --extra-in" + "dex-url https://example.org/simple x", "package index"),
        ("from Py" + "PI", "package index"),
        ("open('/ho" + "me/ann/faces.npz')", "a path of one machine"),
        ("cd /wo" + "rk/main", "a path of one machine"),
        ("fi" + "le:///data/x", "a file address"),
    ],
)
def test_a_planted_place_is_found(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "README.md").write_text(f"first line\n{text}\n")
    found = named_places(tmp_path)
    assert len(found) >= 1
    assert found[0].startswith("README.md:2: ")
    assert what in found[0]


@pytest.mark.parametrize(
    "text",
    [
        "/usr/share/datasets/fashion-mnist is Debian's own folder",
        "inputs/root/tail, $HOME/work/x and a ratio of work/tmp are relative",
        "https://arxiv.org/abs/1234.5678",
    ],
)
def test_what_every_machine_has_may_be_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert named_places(tmp_path) == []


def test_what_git_ignores_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "log.txt").write_text("cd /wo" + "rk/main")
    assert named_places(tmp_path) == []

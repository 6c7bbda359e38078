# SPDX-License-Identifier: Apache-2.0
"""Imports point one way; read from the syntax trees, so that imports inside functions count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("splitguard", "attacks", "defenses")
EVERYWHERE = (*CODE, "tests", "benchmarks", "examples")
LONGEST = 260
SPDX = "# SPDX-License-Identifier: Apache-2.0"

GROUND = {"errors", "registry", "seeding", "compat"}
SCIENCE = GROUND | {"metrics", "privacy", "models", "data"}
ENGINE = SCIENCE | {"engine"}
DEPLOYED = ENGINE | {"api"}
MATRIX = DEPLOYED | {"matrix"}
USER = MATRIX | {"reports", "facade"}
TERMINAL = USER | {"contract", "terminal"}
PLUGIN = {"api", "metrics", "privacy", "building", "errors"}

# component -> the components it may import besides itself
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(GROUND, GROUND),
    **dict.fromkeys(("metrics", "privacy", "models", "data"), GROUND),
    "engine": SCIENCE,
    "api": ENGINE,
    "building": ENGINE,
    "matrix": MATRIX,
    "reports": MATRIX,
    "facade": MATRIX,
    "contract": DEPLOYED,
    "terminal": TERMINAL,
    "cli": TERMINAL,
    "__main__": {"cli"},
    "__init__": USER,
    "attacks": PLUGIN,
    "defenses": PLUGIN,
}
PLUGIN_LIBRARIES = {"torch", "numpy", "scipy", "sklearn", "opacus", *sys.stdlib_module_names}
# They load beside a CPU build of torch only after compat has mended them.
MENDED = {"torchvision", "lpips"}


class Import(NamedTuple):
    """One imported module, and the line; ``lazy`` inside a function or for type checkers only."""

    module: str
    line: int
    lazy: bool


def imports(tree: ast.Module, module: str, *, package: bool) -> list[Import]:
    """Every module that ``tree`` imports; ``from splitguard import engine`` counts as splitguard.engine."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + package]
            source = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names] if source == "splitguard" else [source]
            found.extend(Import(name, node.lineno, lazy) for name in names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for name, value in ast.iter_fields(node):
            typing_only = isinstance(node, ast.If) and name == "body" and "TYPE_CHECKING" in ast.unparse(node.test)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, lazy or inside or typing_only)

    visit(tree, lazy=False)
    return found


def sources(root: Path, folders: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Each source file once, by its real path, with the name it is imported under."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if path.resolve() != root.resolve() / path.relative_to(root):
                continue  # reached through splitguard/attacks or splitguard/defenses; their own folders are read too
            yield path, ".".join(("splitguard", *parts) if folder in {"attacks", "defenses"} else parts)


def component(module: str) -> str:
    """The second name of a module of splitguard: what MAY_IMPORT speaks of."""
    return [*module.split("."), "__init__"][1]


def complaints(path: Path, module: str) -> list[str]:
    """What is wrong with the imports of one file of the product."""
    own = component(module)
    if own not in MAY_IMPORT:
        return [f"{module}: the component {own!r} has no place; give it one in MAY_IMPORT, or move the file"]
    package = path.name == "__init__.py"
    out = []
    for found in imports(
        ast.parse(path.read_text(encoding="utf-8")), module.removesuffix(".__init__"), package=package
    ):
        top = found.module.partition(".")[0]
        at = f"{module}, line {found.line}: imports {found.module}; "
        if top == "splitguard":
            to = component(found.module)
            if to == "__version__":
                continue
            if own in {"attacks", "defenses"} and to == own:
                out.append(at + "a plug-in imports no other plug-in; what several share belongs in splitguard.building")
            elif to != own and to not in MAY_IMPORT[own]:
                out.append(at + f"{own} may import {', '.join(sorted(MAY_IMPORT[own]))} only")
        elif top in {"attacks", "defenses"}:
            out.append(at + f"write splitguard.{found.module}: under two names a plug-in registers twice")
        elif own in {"attacks", "defenses"} and top not in PLUGIN_LIBRARIES:
            out.append(at + "a plug-in uses torch, numpy, scipy, scikit-learn, opacus and the standard library only")
        elif top in MENDED and own != "compat":
            out.append(at + f"take it from splitguard.compat.{top}(), which works beside every build of torch")
        elif own == "__init__" and not found.lazy and top not in sys.stdlib_module_names:
            out.append(at + "splitguard/__init__.py is lazy; import it inside a function")
        if own == "__init__" and top == "splitguard" and not found.lazy:
            out.append(at + "splitguard/__init__.py is lazy; import it inside a function")
    return out


PRODUCT = list(sources(ROOT, CODE))
ALL = list(sources(ROOT, EVERYWHERE))


def test_the_code_is_found() -> None:
    found = {component(module) for _, module in PRODUCT}
    assert {"errors", "registry", "seeding", "engine", "metrics", "attacks", "defenses"} <= found


@pytest.mark.parametrize(("path", "module"), PRODUCT, ids=[module for _, module in PRODUCT])
def test_imports_point_one_way(path: Path, module: str) -> None:
    found = complaints(path, module)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("path", "module"), ALL, ids=[module for _, module in ALL])
def test_the_file_is_short_and_licensed(path: Path, module: str) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:1] == [SPDX], f"{module} must begin with the line {SPDX!r}"
    assert len(lines) <= LONGEST, f"{module} has {len(lines)} lines; a file has one idea and at most {LONGEST} lines"


def test_nothing_imports_a_plugin_folder_by_its_own_name() -> None:
    for path, module in ALL:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tops = {found.module.partition(".")[0] for found in imports(tree, module, package=path.name == "__init__.py")}
        assert not tops & {"attacks", "defenses"}, f"{module}: write splitguard.attacks, splitguard.defenses"


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("splitguard/errors.py", "from splitguard.engine import cut", "errors may import"),
        ("splitguard/metrics/image.py", "from splitguard import engine", "metrics may import"),
        ("splitguard/metrics/image.py", "from ..engine import cut", "imports splitguard.engine"),
        ("splitguard/metrics/__init__.py", "from ..engine import cut", "imports splitguard.engine"),
        ("splitguard/engine/cut.py", "def f():\n    import splitguard.matrix", "line 2: imports splitguard.matrix"),
        ("splitguard/engine/cut.py", "import splitguard", "engine may import"),
        ("splitguard/engine/cut.py", "from splitguard import train", "engine may import"),
        ("splitguard/matrix/runner.py", "import splitguard.attacks.fsha", "matrix may import"),
        ("splitguard/matrix/runner.py", "from splitguard.reports import page", "matrix may import"),
        ("splitguard/data/sources.py", "import torchvision.datasets", "splitguard.compat.torchvision()"),
        ("splitguard/utils.py", "", "has no place"),
        ("splitguard/__init__.py", "from splitguard.api import ATTACKS", "is lazy"),
        ("splitguard/__init__.py", "import torch", "is lazy"),
        ("splitguard/cli.py", "import attacks", "registers twice"),
        ("attacks/a.py", "from splitguard.attacks.b import B", "no other plug-in"),
        ("attacks/a.py", "from .b import B", "no other plug-in"),
        ("attacks/a.py", "from splitguard.engine.session import Session", "attacks may import"),
        ("attacks/a.py", "import pandas", "standard library only"),
        ("defenses/a.py", "from splitguard.attacks.b import B", "defenses may import"),
    ],
)
def test_a_planted_import_is_caught(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(code)
    [(path, module)] = sources(tmp_path, CODE)
    found = complaints(path, module)
    assert len(found) == 1, found
    assert complaint in found[0]


def test_what_points_the_right_way_is_not_caught(tmp_path: Path) -> None:
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "a.py").write_text(
        "import math\nimport torch.nn.functional as F\nfrom scipy import stats\n"
        "from splitguard.api import ATTACKS\nfrom splitguard.building.decoders import decoder\n"
        "from splitguard import metrics\n"
    )
    (tmp_path / "splitguard").mkdir()
    (tmp_path / "splitguard" / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from splitguard.api import View\n"
        "def __getattr__(name):\n    from splitguard import matrix\n"
    )
    assert [complaints(path, module) for path, module in sources(tmp_path, CODE)] == [[], []]

# SPDX-License-Identifier: Apache-2.0
"""The one module through which torchvision and lpips are imported, so that they load beside a CPU build of torch.

torchvision's binary is built against one build of torch. Beside another one its compiled operators do not load, and
`import torchvision` then fails with "operator torchvision::nms does not exist", although nothing in splitguard needs
those operators (they find boxes). Declaring the two that it wants to register a shape rule for mends the import.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
from typing import Any

import torch

from splitguard.errors import NotSupported

__all__ = ["lpips", "torchvision"]

_DECLARED: list[Any] = []  # a Library takes its declarations with it when it is collected


@functools.cache
def torchvision() -> Any:
    """The module torchvision.

    Raises:
        NotSupported: if it is not installed.
    """
    if "torchvision" not in sys.modules:
        _declare_missing_operators()
    return importlib.import_module("torchvision")


@functools.cache
def lpips() -> Any:
    """The module lpips, which imports torchvision.

    Raises:
        NotSupported: if it is not installed.
    """
    torchvision()
    _need("lpips")
    return importlib.import_module("lpips")


def _need(package: str) -> importlib.machinery.ModuleSpec:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise NotSupported(f"this needs the package {package}, which is not installed; pip install {package}")
    return spec


def _declare_missing_operators() -> None:
    """Declares torchvision::nms and torchvision::qnms, unless torchvision's own library brings them."""
    operators: Any = torch.ops  # torch leaves these two untyped
    make_library: Any = torch.library.Library
    spec = _need("torchvision")
    binary = importlib.machinery.PathFinder.find_spec("_C", list(spec.submodule_search_locations or ()))
    if binary is not None and binary.origin is not None:
        try:
            operators.load_library(binary.origin)
        except OSError:
            pass
        else:
            return
    for name in [n for n in sys.modules if n.startswith("torchvision.")]:
        del sys.modules[name]  # left behind by an import of torchvision that failed before
    if not _DECLARED:
        library = make_library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)

# SPDX-License-Identifier: Apache-2.0
"""Networks made by a function of the user's, and what the file that it is written in says."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from splitguard.compat import torchvision
from splitguard.errors import BadSetting, UnknownName, near_miss

__all__ = ["made", "written"]

#: What the file of a factory held when it was imported.
_IMPORTED: dict[str, str] = {}


def _imported(place: str) -> tuple[Any, Any]:
    """The module and the factory at ``module:function``."""
    where, _, what = place.partition(":")
    torchvision()  # so that a factory that imports it finds it mended
    try:
        module: Any = importlib.import_module(where)
        make = module
        for part in what.split("."):
            make = getattr(make, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadSetting(
            f"no model factory at {place!r}: {error}. Write 'module:function'; the module must be importable, for "
            "example by installing it or by naming its folder in PYTHONPATH."
        ) from error
    return module, make


def written(place: str) -> str | None:
    """The digest of the file that a factory is in; None where it is in none.

    Raises:
        BadSetting: if the file has changed since it was imported: what runs is no longer what it says.
    """
    module, _ = _imported(place)
    path = Path(getattr(module, "__file__", None) or "")
    if not path.is_file():
        return None
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    if _IMPORTED.setdefault(str(path), found) != found:
        raise BadSetting(f"{path.name} has changed since {place} was imported from it; start Python again")
    return found


def made(place: str, settings: dict[str, Any], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network that the factory makes, called with what its signature names.

    Raises:
        BadSetting, UnknownName: for a place, a factory or a setting that does not fit.
    """
    _, make = _imported(place)
    try:
        takes = inspect.signature(make).parameters
    except (TypeError, ValueError) as error:
        raise BadSetting(f"the model factory {place} cannot be asked what it takes: {error}") from error
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    for key in settings:
        if key not in takes and not open_ended:
            raise UnknownName(near_miss(key, takes, what=f"setting of the factory {place}:"))
    offered = {"input_shape": input_shape, "classes": classes}
    module = make(**{k: v for k, v in offered.items() if k in takes}, **settings)
    if not isinstance(module, nn.Module):
        raise BadSetting(f"the model factory {place} must return a torch.nn.Module; it returned {type(module)}")
    return module

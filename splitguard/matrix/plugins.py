# SPDX-License-Identifier: Apache-2.0
"""Attacks and defenses of a matrix: built with each combination of their settings, and written down as pure data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from splitguard.api import Attack, Defense
from splitguard.errors import BadSetting
from splitguard.matrix.axes import combinations, sequence_settings
from splitguard.matrix.cell import Plugin
from splitguard.registry import Registry, parse_spec

__all__ = ["as_plugin", "built", "plain"]


def built(registry: Registry[Any], entry: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """For each combination of the settings of one entry, a plug-in built with them, and the settings."""
    name, settings = parse_spec(entry, what=registry.what)
    for point in combinations(settings, whole=sequence_settings(registry.get(name))):
        yield registry.build({name: point}), point


def as_plugin(instance: Attack | Defense, told: Mapping[str, Any]) -> Plugin:
    """A plug-in as pure data."""
    own: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()
    fields = [f for f in own if f.init]
    settings = {f.name: plain(getattr(instance, f.name)) for f in fields}
    defaults = {f.name: plain(_default(f)) for f in fields}
    return Plugin(
        name=instance.name,
        version=instance.version,
        settings=settings,
        told={k: settings[k] for k in told if settings[k] != defaults[k]},
        moves_only=isinstance(instance, Defense) and _moves_only(type(instance)),
    )


def _default(setting: dataclasses.Field[Any]) -> Any:
    if setting.default_factory is not dataclasses.MISSING:
        return setting.default_factory()
    return None if setting.default is dataclasses.MISSING else setting.default


def _moves_only(cls: type[Defense]) -> bool:
    """Whether a defense overrides no hook of the base class but `Defense.place`."""
    hooks = [name for name, value in vars(Defense).items() if callable(value) and not name.startswith("_")]
    return all(name == "place" or getattr(cls, name) is getattr(Defense, name) for name in hooks)


def plain(value: Any) -> Any:
    """A setting as JSON knows it.

    Raises:
        BadSetting: for a value that is no plain data.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise BadSetting(f"settings in a matrix are plain data (numbers, texts, lists); got {value!r}")

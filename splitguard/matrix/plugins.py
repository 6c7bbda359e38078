# SPDX-License-Identifier: Apache-2.0
"""Attacks and defenses of a matrix: built with each combination of their settings, and written down as pure data."""

from __future__ import annotations

import dataclasses
import math
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
    """A plug-in as pure data; at its default a setting that was added later is left out, as it changes nothing."""
    own: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()
    fields = [f for f in own if f.init]
    settings = {f.name: plain(getattr(instance, f.name), f.name) for f in fields}
    defaults = {f.name: plain(_default(f), f.name) for f in fields}
    later = {f.name for f in fields if f.metadata.get("added") and settings[f.name] == defaults[f.name]}
    return Plugin(
        name=instance.name,
        version=instance.version,
        settings={k: v for k, v in settings.items() if k not in later},  # keys from before it stay valid
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


def plain(value: Any, name: str | None = None) -> Any:
    """A setting as JSON knows it.

    Args:
        value: of the setting; a mapping names what is in it by its keys.
        name: of the setting, for messages.

    Raises:
        BadSetting: for a value that is no plain data, or a number that is not finite, which no key could be made of.
    """
    if isinstance(value, Enum):
        return plain(value.value, name)
    if isinstance(value, Mapping):
        return {str(k): plain(v, str(k)) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item, name) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise BadSetting(f"{_setting(name)} must be a finite number; got {value}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise BadSetting(f"{_setting(name)} must be plain data (a number, a text, a list); got {value!r}")


def _setting(name: str | None) -> str:
    return "a setting" if name is None else f"the setting {name!r}"

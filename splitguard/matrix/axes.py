# SPDX-License-Identifier: Apache-2.0
"""Lists among settings are axes: one entry of the file becomes every combination of their values."""

from __future__ import annotations

import collections.abc
import itertools
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from splitguard.errors import BadSetting

__all__ = ["combinations", "sequence_settings"]


def combinations(settings: Mapping[str, Any], *, whole: Collection[str] = ()) -> list[dict[str, Any]]:
    """All settings that ``settings`` stands for, the last axis fastest.

    A list is an axis, also inside a mapping. In the settings named in ``whole`` a list is one value, and a list of
    lists is an axis.

    Raises:
        BadSetting: for an axis without a value.

    >>> combinations({"epsilon": [8, 200], "clip": "auto"})
    [{'epsilon': 8, 'clip': 'auto'}, {'epsilon': 200, 'clip': 'auto'}]
    >>> combinations({"phases": ["training", "query"]}, whole={"phases"})
    [{'phases': ['training', 'query']}]
    """
    choices = [_values(value, key, whole) for key, value in settings.items()]
    return [dict(zip(settings, chosen, strict=True)) for chosen in itertools.product(*choices)]


def _values(value: Any, key: str, whole: Collection[str]) -> list[Any]:
    if isinstance(value, Mapping):
        return combinations(value, whole=whole)
    if not isinstance(value, list | tuple):
        return [value]
    if key in whole and not (value and all(isinstance(item, list | tuple) for item in value)):
        return [value]
    if not value:
        raise BadSetting(f"setting {key!r} is an axis without a value; give one or more")
    points = [combinations(item, whole=whole) if isinstance(item, Mapping) else [item] for item in value]
    return list(itertools.chain.from_iterable(points))


def sequence_settings(owner: Callable[..., Any]) -> frozenset[str]:
    """The settings of a class or function whose own type is a list, tuple or set.

    >>> def source(path: str, names: tuple[str, ...] = ()) -> None: ...
    >>> sorted(sequence_settings(source))
    ['names']
    """
    hints = typing.get_type_hints(owner)
    return frozenset(name for name, hint in hints.items() if name != "return" and _is_sequence(hint))


def _is_sequence(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_sequence(part) for part in typing.get_args(hint))
    kind = origin or hint
    if not isinstance(kind, type) or issubclass(kind, str | bytes):
        return False
    return issubclass(kind, collections.abc.Sequence | collections.abc.Set)

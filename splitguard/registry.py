# SPDX-License-Identifier: Apache-2.0
"""Names to classes, with near-miss messages; finds the plug-ins of this package and of others."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import pkgutil
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from splitguard.errors import BadSetting, UnknownName, near_miss

__all__ = ["Registry", "Spec", "parse_spec", "settings_of"]

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])
Spec = str | Mapping[str, Mapping[str, Any] | None]


def parse_spec(spec: Spec, *, what: str) -> tuple[str, dict[str, Any]]:
    """Reads ``"name"`` or ``{"name": {setting: value}}``.

    Raises:
        BadSetting: if it is neither.
    """
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, settings = next(iter(spec.items()))
        if isinstance(name, str) and (settings is None or isinstance(settings, Mapping)):
            return name, {str(k): v for k, v in (settings or {}).items()}
    raise BadSetting(f"a {what} is written as a name or as {{name: {{setting: value}}}}; got {spec!r}")


def settings_of(plugin: Any) -> dict[str, Any]:
    """The settings of a plug-in instance, defaults included: its dataclass fields."""
    return {f.name: getattr(plugin, f.name) for f in dataclasses.fields(plugin) if f.init}


class Registry(Generic[T]):
    """A table of classes or factories by name.

    Args:
        what: the noun for messages, as in ``"attack"``.
        package: the package whose modules register themselves here on `load`.
        group: the entry-point group through which other distributions add theirs.
    """

    def __init__(self, what: str, *, package: str | None = None, group: str | None = None) -> None:
        self.what = what
        self._package = package
        self._group = group
        self._found: dict[str, Callable[..., T]] = {}
        self._loaded = False

    def add(self, name: str) -> Callable[[C], C]:
        """Files a class or factory under ``name``; a taken name is refused with both places named."""

        def decorate(cls: C) -> C:
            old = self._found.get(name)
            if old is not None:
                raise BadSetting(
                    f"the {self.what} name {name!r} is taken: {old.__module__} filed it, {cls.__module__} wants it. "
                    "Choose another name; if both are the same file, it was imported under two names."
                )
            self._found[name] = cls
            if isinstance(cls, type):
                cls.name = name  # type: ignore[attr-defined]  # the base classes declare it
            return cls

        return decorate

    def load(self) -> None:
        """Imports every module of the plug-in package and every entry point, once."""
        if self._loaded:
            return
        self._loaded = True
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self._package}.{module.name}")
        if self._group is not None:
            for point in importlib.metadata.entry_points(group=self._group):
                point.load()

    def names(self) -> list[str]:
        """All names, sorted."""
        self.load()
        return sorted(self._found)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._found

    def get(self, name: str) -> Callable[..., T]:
        """The class or factory called ``name``.

        Raises:
            UnknownName: with near misses and the known names.
        """
        self.load()
        if name not in self._found:
            raise UnknownName(near_miss(name, self._found, what=self.what))
        return self._found[name]

    def build(self, spec: Spec, **more: Any) -> T:
        """An instance from ``"name"`` or ``{"name": {setting: value}}``, every setting checked.

        Args:
            spec: the name, with settings or without.
            **more: further settings; they win over those in ``spec``.

        Raises:
            UnknownName: for the name or a setting, with near misses.
            BadSetting: for a value of the wrong type, or one that the class itself refuses.
        """
        name, settings = parse_spec(spec, what=self.what)
        cls = self.get(name)
        settings = {**settings, **more}
        if dataclasses.is_dataclass(cls):
            settings = _checked(cls, settings, f"{self.what} {name!r}")
        return cls(**settings)


def _checked(cls: Any, settings: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Settings with their types checked against the fields of the dataclass ``cls``."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in fields:
            raise UnknownName(near_miss(key, fields, what=f"setting of the {owner}:"))
        try:
            out[key] = TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            wanted = "; ".join(sorted({e["msg"] for e in error.errors()}))
            raise BadSetting(f"{owner}: setting {key!r} got {value!r}: {wanted}") from None
    missing = [
        n
        for n, f in fields.items()
        if n not in out and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadSetting(f"{owner} needs the setting {' and '.join(map(repr, missing))}")
    return out

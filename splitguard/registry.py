# SPDX-License-Identifier: Apache-2.0
"""Names to classes, with near-miss messages; finds the plug-ins of this package and of others."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from splitguard.errors import BadSetting, UnknownName, near_miss

__all__ = ["Broken", "Registry", "Spec", "parse_spec", "settings_of"]

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


@dataclass(frozen=True)
class Broken:
    """A plug-in of another distribution that could not be loaded.

    Attributes:
        name: of its entry point.
        distribution: that declares it.
        module: that was to be imported.
        cause: what it raised.
    """

    name: str
    distribution: str
    module: str
    cause: str

    def __str__(self) -> str:
        return (
            f"the plug-in {self.name!r} of the distribution {self.distribution} could not be loaded: {self.module} "
            f"raised {self.cause}. Mend or uninstall {self.distribution}"
        )


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
        self._broken: dict[str, Broken] = {}
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
        """Imports every module of the plug-in package and every entry point, once.

        A module that breaks breaks this call and the next ones, until it is mended. An entry point that breaks is told
        on stderr and remembered in `broken`; the others are loaded all the same.
        """
        if self._loaded:
            return
        tree = pkgutil.iter_modules(map(str, self.folders()))
        self._loaded = True  # already here, for a plug-in that asks for others while it is imported
        for module in tree:
            if not module.name.startswith("_"):
                self._load_module(f"{self._package}.{module.name}")
        if self._group is not None:
            for point in importlib.metadata.entry_points(group=self._group):
                self._load_point(point)

    def _load_module(self, name: str) -> None:
        try:
            importlib.import_module(name)
        except BaseException:
            self._loaded = False
            # Python forgets a module that broke, and imports it anew: what it filed must not stand in its way.
            self._found = {key: cls for key, cls in self._found.items() if cls.__module__ != name}
            raise

    def _load_point(self, point: importlib.metadata.EntryPoint) -> None:
        try:
            point.load()
        except (Exception, SystemExit) as error:  # code of others, run on import: whatever it raises is its own
            whose = point.dist.name if point.dist is not None else "of unknown name"
            found = Broken(point.name, whose, point.module, f"{type(error).__name__}: {error}")
            self._broken[point.name] = found
            print(f"splitguard: warning: {self.what}: {found}", file=sys.stderr)

    @property
    def broken(self) -> Mapping[str, Broken]:
        """The entry points of other distributions that could not be loaded, by name."""
        self.load()
        return self._broken

    def folders(self) -> list[Path]:
        """Where this package's own plug-ins of the kind lie: a file put there registers itself."""
        if self._package is None:
            return []
        return [Path(folder) for folder in importlib.import_module(self._package).__path__]

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
            BadSetting: if a plug-in of that name is installed and broken.
        """
        self.load()
        if name not in self._found:
            if name in self._broken:
                raise BadSetting(f"{self.what}: {self._broken[name]}")
            also = f" Installed, but broken: {', '.join(sorted(self._broken))}." if self._broken else ""
            raise UnknownName(near_miss(name, self._found, what=self.what) + also)
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

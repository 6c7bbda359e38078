# SPDX-License-Identifier: Apache-2.0
"""YAML with its line numbers kept, so that an error can point at the place in the file that caused it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from splitguard.errors import BadSetting

__all__ = ["MatrixError", "Place", "Source", "parse_yaml", "read_yaml"]

#: Keys and positions from the top of the file to a value, as in ``("defense", 1, "gaussian", "epsilon")``.
Place = tuple[str | int, ...]


class MatrixError(BadSetting):
    """A matrix file that cannot be run: each line says where, what was wanted, what came, and a near miss.

    Attributes:
        problems: the lines of the message, one a problem.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Source:
    """Where the values of a matrix stand.

    Attributes:
        file: the name of the file; None for a matrix made from a mapping.
        text: the file as it was written; None likewise.
        lines: for every place that exists, its line counted from 1; None where there is no file.
    """

    file: str | None = None
    lines: Mapping[Place, int | None] = field(default_factory=dict)
    text: str | None = None

    def where(self, place: Place, *, under: Place = ()) -> str:
        """The place for people, as in ``"faces.yaml, line 7, defense[1].gaussian.epsilon"``.

        Steps that the file does not have are left out: a single value stands for a list of one.

        Args:
            place: where the value stands.
            under: a block that may have it; else it stands at the top level.
        """
        inside, top = self._known((*under, *place)), self._known(place)
        known = inside if len(inside) - len(under) >= len(top) else top
        line = self.lines.get(known)
        name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in known).lstrip(".")
        parts = [self.file or "matrix", f"line {line}" if line else "", name]
        return ", ".join(part for part in parts if part)

    def _known(self, place: Place) -> Place:
        known: Place = ()
        for step in place:
            if (*known, step) in self.lines:
                known = (*known, step)
        return known

    def problem(self, place: Place, text: object, *, under: Place = ()) -> str:
        """One line of a `MatrixError`."""
        return f"{self.where(place, under=under)}: {text}"

    @classmethod
    def of(cls, value: Any) -> Source:
        """The places of plain values that came from no file."""
        lines: dict[Place, int | None] = {}

        def walk(item: Any, place: Place) -> None:
            lines[place] = None
            listed = enumerate(item) if isinstance(item, list | tuple) else ()
            steps = item.items() if isinstance(item, Mapping) else listed
            for step, inner in steps:
                walk(inner, (*place, step))

        walk(value, ())
        return cls(None, lines)


COLLECTIONS = (yaml.resolver.Resolver.DEFAULT_MAPPING_TAG, yaml.resolver.Resolver.DEFAULT_SEQUENCE_TAG)


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader`, except that ``1e-5`` is a number, as in YAML 1.2, and not a text, as in YAML 1.1."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def read_yaml(path: Path) -> tuple[Any, Source]:
    """The value in a YAML file, and where each part of it stands.

    Only plain values are made, as by `yaml.safe_load`. A key that is given twice is refused.

    Raises:
        MatrixError: if the file cannot be read, is no YAML, repeats a key, contains itself or a number that is not
            finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MatrixError([f"{path}: cannot be read: {error}"]) from None
    return parse_yaml(text, path.name)


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """The value of a YAML text, read as a matrix file is, and where each part of it stands.

    Args:
        text: the YAML.
        name: of the file or the option it comes from, for messages.

    Raises:
        MatrixError: as `read_yaml`.
    """
    reader = _Reader(name)
    try:
        value = reader.read(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        at = f", line {mark.line + 1}" if mark is not None else ""
        raise MatrixError([f"{name}{at}: not valid YAML: {what}"]) from None
    except RecursionError:
        raise MatrixError([f"{name}: lists and mappings lie too deep in one another"]) from None
    return value, Source(name, reader.lines, text)


class _Reader:
    """Builds plain values from YAML nodes and files the line of each."""

    def __init__(self, file: str) -> None:
        self.lines: dict[Place, int | None] = {}
        self._file = file
        self._checked: set[int] = set()

    def read(self, text: str) -> Any:
        self._loader = _Loader(text)
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._value(node, (), ())
        finally:
            self._loader.dispose()

    def _value(self, node: yaml.Node, place: Place, above: tuple[int, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        if id(node) in above:
            raise self._error(line, "this value contains itself")
        above = (*above, id(node))
        if isinstance(node, yaml.CollectionNode) and node.tag not in COLLECTIONS:
            raise self._error(line, f"not valid YAML: {node.tag} is not read, only plain lists and mappings")
        if isinstance(node, yaml.SequenceNode):
            return [self._value(inner, (*place, number), above) for number, inner in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node, place)
        self._check_keys(node)
        self._loader.flatten_mapping(node)
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.lines[(*place, key)] = key_node.start_mark.line + 1
            out[key] = self._value(value_node, (*place, key), above)
        return out

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        try:
            value = self._loader.construct_object(node, deep=True)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # what yaml's constructors let through
            kind = node.tag.rpartition(":")[2]
            raise self._error(
                line, f"{node.value!r} cannot be read as YAML's {kind}: {error}. Put a text in quotes"
            ) from None
        if isinstance(value, float) and not math.isfinite(value):
            named = next((f"{step!r}: " for step in reversed(place) if isinstance(step, str)), "")
            raise self._error(line, f"{named}wanted a finite number; got {node.value}")
        return value

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Keys are names, each given once; before merge keys (``<<``) are resolved, which may repeat them."""
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, "keys are names, not lists or mappings")
            key = str(key_node.value)
            if key in seen and key != "<<":
                raise self._error(line, f"the key {key!r} is given twice, first in line {seen[key]}")
            seen[key] = line

    def _error(self, line: int, text: str) -> MatrixError:
        return MatrixError([f"{self._file}, line {line}: {text}"])

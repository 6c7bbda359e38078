# SPDX-License-Identifier: Apache-2.0
"""Of which version of an attack or a defense a stored number is, and whether that is today's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from splitguard.api import ATTACKS, DEFENSES
from splitguard.matrix import Cell

__all__ = ["changed", "named", "versions"]


def versions(cells: Iterable[Cell]) -> dict[str, int]:
    """Of the attacks and defenses of these cells."""
    return {part.name: part.version for cell in cells for part in (cell.attack, *cell.defense)}


def named(*names: str) -> dict[str, int]:
    """Of the attacks and defenses of these names."""
    found = {name: registry.get(name) for registry in (ATTACKS, DEFENSES) for name in names if name in registry}
    return {name: int(getattr(part, "version", 0)) for name, part in found.items()}


def changed(stored: Mapping[str, int]) -> list[str]:
    """The names whose version is another one by now; a name that is gone counts."""
    now = {
        known: getattr(registry.get(known), "version", None) for registry in (ATTACKS, DEFENSES) for known in registry
    }
    return [name for name, version in stored.items() if now.get(name) != version]

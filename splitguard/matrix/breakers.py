# SPDX-License-Identifier: Apache-2.0
"""``attack: breakers``: the attacks that each defense says it must be measured against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from splitguard.api import ATTACKS, DEFENSES, Attack
from splitguard.matrix.cell import Plugin
from splitguard.matrix.plugins import as_plugin, built

__all__ = ["WORD", "breakers_of"]

#: Stands in a matrix file's list of attacks.
WORD = "breakers"
Defenses = tuple[Plugin, ...]


def breakers_of(defense: Defenses, everyone: Iterable[Defenses]) -> list[tuple[Plugin, Attack]]:
    """The attacks behind the word for one deployment, each once.

    A composition meets the breakers of all its parts. An undefended deployment meets those of every defense in its
    block, so that each defended one has a twin attacked alike.

    Args:
        defense: of the deployment; empty for none.
        everyone: all defenses of the block.

    Raises:
        SplitguardError: if a defense names an attack, or a setting, that does not exist.
    """
    parts: Sequence[Plugin] = defense or [part for other in everyone for part in other]
    found: dict[str, tuple[Plugin, Attack]] = {}
    for name in dict.fromkeys(part.name for part in parts):
        for spec in DEFENSES.get(name).breakers:  # type: ignore[attr-defined]
            for attack, told in built(ATTACKS, spec):
                plugin = as_plugin(attack, told)
                found.setdefault(str(plugin), (plugin, attack))
    return list(found.values())

# SPDX-License-Identifier: Apache-2.0
"""A cut some layers further: the client computes more, and what leaves it says less about the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from splitguard.api import DEFENSES, BadSetting, Cut, Defense, NotSupported, Spec

__all__ = ["DeeperCut"]


@DEFENSES.add("deeper-cut")
@dataclass(kw_only=True)
class DeeperCut(Defense):
    """Moves the first cut ``layers`` legal cuts towards the output; a second cut stays where it is.

    Nothing else changes: it is the plain deployment at the cut that it ends at, shares that one's training, and its
    price is that one's client parameters and FLOPs. There is no guarantee; a deeper layer usually, not always, leaks
    less.

    Args:
        layers: how many legal cuts further, in network order; 0 or more, and 0 is the plain deployment.

    Raises:
        BadSetting: if ``layers`` is negative.
        NotSupported: from `place`, with the range that fits, if it would reach the second cut or the network's end.

    Source: He, Zhang, Lee, Model inversion attacks against collaborative inference, ACSAC 2019, who vary the cut over
    the layers of a chain. Here only places that no skip connection bridges are counted.
    """

    layers: int = 1

    paper: ClassVar[str] = "He et al., Model inversion attacks against collaborative inference, ACSAC 2019"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "cut"
    breakers: ClassVar[tuple[Spec, ...]] = ("white-box-inversion", "inverse-network", "sdar", "fora")
    null: ClassVar[Mapping[str, Any] | None] = {"layers": 0}

    def __post_init__(self) -> None:
        if self.layers < 0:
            raise BadSetting(
                f"deeper-cut: layers is how many legal cuts further, 0 or more; got {self.layers}. "
                "For a cut nearer to the input, name that cut."
            )

    def place(self, cuts: tuple[str, ...], legal: Sequence[Cut]) -> tuple[str, ...]:
        """``cuts`` with the first one ``layers`` places further in ``legal``, which is in network order."""
        names = [c.name for c in legal]
        start = names.index(cuts[0])
        beyond = names.index(cuts[1]) if len(cuts) > 1 else len(names)
        room = beyond - 1 - start
        if self.layers > room:
            limit = f"the second cut {cuts[1]}" if len(cuts) > 1 else "the output"
            there = ", ".join(names[start + 1 : beyond])
            fits = f"layers 0..{room} fit: {there}" if room else "none fits; choose an earlier first cut"
            raise NotSupported(
                f"deeper-cut: {self.layers} further than {cuts[0]} is not before {limit}; {fits}. "
                f"The legal cuts in network order: {', '.join(names)}."
            )
        return (names[start + self.layers], *cuts[1:])

# SPDX-License-Identifier: Apache-2.0
"""What a session adds to the statements of its defense: on what they rest that no defense can see."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from splitguard.engine.training import Training
from splitguard.privacy.guarantee import Guarantee

__all__ = ["in_session"]


def in_session(stated: Sequence[Guarantee], training: Training, rows: int) -> tuple[Guarantee, ...]:
    """The statements as they hold in a session of so many training rows.

    Each one is voided where delta is not below one over the number of rows: it would allow to publish a row outright.
    Clauses name what is taken for granted: that nobody knows the seed, where the noise comes from one; that a frozen
    head and the auxiliary rows owe nothing to private rows; and, of the whole view, that no layer of the head mixes
    rows, which `mixes_rows` looks for.
    """
    taken = []
    if training.noise == "seeded":
        taken.append("whoever knows the seed knows the noise (noise: os draws it from the operating system)")
    if training.head == "frozen":
        taken.append("it is taken for granted that neither the initial weights nor the auxiliary rows are private")
    return tuple(_with(one, taken, rows) for one in stated)


def _with(one: Guarantee, taken: Sequence[str], rows: int) -> Guarantee:
    if one.delta * rows >= 1:
        return one.voided(f"delta={one.delta:.4g} is not below one over the {rows} training rows")
    whole_view = one.channel == "inputs" and one.epsilon is not None
    alone = ["that no layer of the head mixes rows was tried, not proved"] if whole_view else []
    return dataclasses.replace(one, exclusions=(*one.exclusions, *taken, *alone))

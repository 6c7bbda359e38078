# SPDX-License-Identifier: Apache-2.0
"""Who mounts an attack on a cell's deployment, and why nobody can, asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from splitguard.api import DEFENSES, Attack, Defense, Goal, Labels, Mode, Party, Profile, Threat
from splitguard.engine.goals import NO_ATTRIBUTE
from splitguard.engine.threat import refusal
from splitguard.matrix.cell import Plugin

__all__ = ["mounted", "why_refused"]


def mounted(
    threat: Threat, goal: Goal, *, mode: Mode, labels: Labels, profile: Profile, defense: Iterable[Plugin]
) -> tuple[Party | None, Profile | None, str | None]:
    """`splitguard.engine.threat.refusal` for a deployment whose defenses are known by name."""
    return refusal(threat, goal, mode=mode, labels=labels, profile=profile, labels_defended=_hides_labels(defense))


def why_refused(
    attack: Attack,
    data: Mapping[str, Any],
    *,
    mode: Mode,
    labels: Labels,
    profile: Profile,
    defense: Iterable[Plugin],
) -> str | None:
    """The reason why nobody can mount the attack there, or why it has no goal in these data; None if neither."""
    if attack.goal is Goal.ATTRIBUTE and data.get("coarse") is None:
        return NO_ATTRIBUTE
    return mounted(attack.threat, attack.goal, mode=mode, labels=labels, profile=profile, defense=defense)[2]


def _hides_labels(defense: Iterable[Plugin]) -> bool:
    """Whether any of them changes labels before they are used; a name that is not registered here does nothing."""
    found = (getattr(DEFENSES.get(part.name), "on_labels", None) for part in defense if part.name in DEFENSES)
    return any(hook is not Defense.on_labels for hook in found)

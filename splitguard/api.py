# SPDX-License-Identifier: Apache-2.0
"""Everything an attack or a defense imports from splitguard's engine, and the two tables they register in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from splitguard.data.rows import Rows
from splitguard.engine.cut import Cut, SplitModel
from splitguard.engine.defense import Alarm, Batch, Context, Defense, Deployment
from splitguard.engine.roles import Attack, Budget, ClientAttack, Guess, OnlineAttack, ServerAttack
from splitguard.engine.stack import Stack
from splitguard.engine.threat import Goal, Labels, Mode, Party, Profile, Seat, Sees, Threat
from splitguard.engine.updates import Update, Updates
from splitguard.engine.view import Known, View
from splitguard.engine.wire import Exchange, Phase, Releases
from splitguard.errors import BadSetting, MissingKnowledge, NotSupported
from splitguard.privacy.guarantee import Guarantee
from splitguard.registry import Registry, Spec
from splitguard.seeding import derive, generator, standard_normal

__all__ = [
    "ATTACKS",
    "DEFENSES",
    "Alarm",
    "Attack",
    "BadSetting",
    "Batch",
    "Budget",
    "ClientAttack",
    "Context",
    "Cut",
    "Defense",
    "Deployment",
    "Exchange",
    "Goal",
    "Guarantee",
    "Guess",
    "Known",
    "Labels",
    "MissingKnowledge",
    "Mode",
    "NotSupported",
    "OnlineAttack",
    "Party",
    "Phase",
    "Profile",
    "Releases",
    "Rows",
    "Seat",
    "Sees",
    "ServerAttack",
    "Spec",
    "SplitModel",
    "Stack",
    "Threat",
    "Update",
    "Updates",
    "View",
    "build_defense",
    "derive",
    "generator",
    "standard_normal",
]

ATTACKS: Registry[Attack] = Registry("attack", package="splitguard.attacks", group="splitguard.attacks")
DEFENSES: Registry[Defense] = Registry("defense", package="splitguard.defenses", group="splitguard.defenses")
DEFENSES.add("none")(Defense)


def build_defense(spec: Spec | Sequence[Spec]) -> Defense:
    """A fresh defense from ``"none"``, a name, ``{name: {setting: value}}``, or a list of these, applied in order.

    Raises:
        UnknownName, BadSetting: as `Registry.build`.
    """
    if isinstance(spec, str | Mapping):
        return DEFENSES.build(spec)
    built = [DEFENSES.build(s) for s in spec]
    return built[0] if len(built) == 1 else Stack(built)

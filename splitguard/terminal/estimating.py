# SPDX-License-Identifier: Apache-2.0
"""``splitguard estimate``."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

from rich.table import Table

from splitguard.errors import BadSetting, near_miss
from splitguard.terminal.console import plain_console

if TYPE_CHECKING:
    from splitguard.api import Defense
    from splitguard.engine.mechanism import Mechanism
    from splitguard.privacy.estimate import Estimate

__all__ = ["estimate"]


def estimate(
    name: str | None,
    module: str | None,
    settings: list[str],
    *,
    channel: str | None,
    shape_text: str,
    classes: int,
    batch: int,
    releases: int,
    trials: int,
    seed: int,
    as_json: bool,
) -> bool:
    """Plays the game against a defense, prints what it showed, and says whether the claim stands."""
    import torch

    from splitguard.engine.mechanism import CHANNELS, as_mechanism
    from splitguard.privacy.estimate import estimate_epsilon, estimate_gradient_epsilon, estimate_label_epsilon
    from splitguard.seeding import generator
    from splitguard.terminal.numbers import shape_of

    if channel is not None and channel not in CHANNELS:
        raise BadSetting(near_miss(channel, CHANNELS, what="channel"))
    torch.set_num_threads(1)
    shape, draws = shape_of(shape_text, "--shape"), generator(seed, "estimate")
    defense = _defense(name, module, settings)
    one = as_mechanism(defense, shape=shape, batch=batch, releases=releases, classes=classes, channel=channel)
    if one.tell is not None:
        found = estimate_label_epsilon(
            one.tell, one.claim, classes=classes, batch=batch, trials=trials, generator=draws
        )
    elif one.step is not None:
        found = estimate_gradient_epsilon(one.step, one.claim, shape=shape, batch=batch, trials=trials, generator=draws)
    else:
        assert one.send is not None
        found = estimate_epsilon(one.send, one.claim, shape=shape, batch=batch, trials=trials, generator=draws)
    if as_json:
        values = dataclasses.asdict(found)
        print(json.dumps({**values, "channel": one.channel, "claim": dataclasses.asdict(one.claim)}, default=str))
    else:
        _print(found, defense, one)
    return not found.flagged


def _print(found: Estimate, defense: Defense, one: Mechanism) -> None:
    whose = {
        "inputs": "a row's own messages",
        "labels": "what its own messages tell of a row's label",
        "head-weights": "a row's own gradients in the head's weights",
    }[one.channel]
    title = f"{defense.name}: epsilon {one.claim.epsilon:.4g}, delta {one.claim.delta:g} claimed for {whose}"
    table = Table(title=title, caption=str(found))
    for heading in ("world", "statistic", f"{found.measure} at least"):
        table.add_column(heading, justify="right" if heading.endswith("least") else "left")
    for test in found.tests:
        shown = "nothing" if test.lower <= 0 or not math.isfinite(test.lower) else f"{test.lower:.3f}"
        table.add_row(test.world, test.statistic, shown)
    plain_console().print(table)


def _defense(name: str | None, module: str | None, settings: list[str]) -> Defense:
    """A registered defense by name, or a class from elsewhere written ``module:Class``."""
    from splitguard.api import DEFENSES
    from splitguard.api import Defense as Base
    from splitguard.terminal.elsewhere import class_from
    from splitguard.terminal.single import parse_settings

    given = parse_settings(settings)
    if (name is None) == (module is None):
        raise BadSetting("estimate takes a defense by name, or --module package.file:Class; give one of them")
    if name is not None:
        return DEFENSES.build({name: given})
    assert module is not None
    cls: type[Defense] = class_from(module, (Base,), what="defense", option="--module")
    try:
        return cls(**given)
    except TypeError as error:
        raise BadSetting(f"--set: {error}") from error

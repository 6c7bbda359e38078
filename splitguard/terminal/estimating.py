# SPDX-License-Identifier: Apache-2.0
"""``splitguard estimate``."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from splitguard.errors import BadSetting, near_miss

if TYPE_CHECKING:
    from splitguard.api import Defense
    from splitguard.privacy.estimate import Estimate

__all__ = ["estimate"]


def estimate(
    name: str | None,
    module: str | None,
    settings: list[str],
    *,
    shape_text: str,
    batch: int,
    releases: int,
    trials: int,
    seed: int,
    as_json: bool,
) -> bool:
    """Plays the game against a defense, prints what it showed, and says whether the claim stands."""
    import torch

    from splitguard.engine.mechanism import as_mechanism
    from splitguard.privacy.estimate import estimate_epsilon
    from splitguard.seeding import generator
    from splitguard.terminal.numbers import shape_of

    torch.set_num_threads(1)
    shape = shape_of(shape_text)
    defense = _defense(name, module, settings)
    send, claim = as_mechanism(defense, shape=shape, batch=batch, releases=releases)
    found = estimate_epsilon(
        send, claim, shape=shape, batch=batch, trials=trials, generator=generator(seed, "estimate")
    )
    if as_json:
        values = dataclasses.asdict(found)
        print(json.dumps({**values, "claim": dataclasses.asdict(claim)}, default=str))
    else:
        _print(found, defense, claim.epsilon, claim.delta)
    return not found.flagged


def _print(found: Estimate, defense: Defense, epsilon: float, delta: float) -> None:
    title = f"{defense.name}: epsilon {epsilon:.4g}, delta {delta:g} claimed for a row's own messages"
    table = Table(title=title, caption=str(found))
    for heading in ("world", "statistic", f"{found.measure} at least"):
        table.add_column(heading, justify="right" if heading.endswith("least") else "left")
    for test in found.tests:
        shown = "nothing" if test.lower <= 0 or not math.isfinite(test.lower) else f"{test.lower:.3f}"
        table.add_row(test.world, test.statistic, shown)
    Console().print(table)


def _defense(name: str | None, module: str | None, settings: list[str]) -> Defense:
    """A registered defense by name, or a class from elsewhere written ``module:Class``."""
    from splitguard.api import DEFENSES
    from splitguard.api import Defense as Base
    from splitguard.terminal.single import parse_settings

    given = parse_settings(settings)
    if (name is None) == (module is None):
        raise BadSetting("estimate takes a defense by name, or --module package.file:Class; give one of them")
    if name is not None:
        return DEFENSES.build({name: given})
    assert module is not None
    path, _, attribute = module.partition(":")
    if not attribute:
        raise BadSetting(f"--module is written package.file:Class; got {module!r}")
    try:
        found = importlib.import_module(path)
    except ImportError as error:
        raise BadSetting(f"--module {module}: {error}. It must be importable from here") from error
    cls = getattr(found, attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, Base)):
        known = [n for n, value in vars(found).items() if isinstance(value, type) and issubclass(value, Base)]
        raise BadSetting(near_miss(attribute, known, what=f"defense in {path}"))
    try:
        return cls(**given)
    except TypeError as error:
        raise BadSetting(f"--set: {error}") from error

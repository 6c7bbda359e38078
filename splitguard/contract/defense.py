# SPDX-License-Identifier: Apache-2.0
"""The contract that every registered defense passes."""

from __future__ import annotations

import functools
from collections.abc import Callable

from splitguard.api import ATTACKS, DEFENSES, Defense
from splitguard.contract.kept import described, settings, survive_yaml, tried_all
from splitguard.engine.bench import Bench
from splitguard.engine.promises import PROMISES, Check, need, nothing_changes

__all__ = ["check_defense", "promises"]


def check_defense(name: str) -> list[Check]:
    """Runs the contract in about a second: on a bench, with the default settings; nothing is trained.

    Args:
        name: of a registered defense.

    Returns:
        One `Check` for each promise; the first alone where the defense does not build with its defaults.

    Raises:
        UnknownName: if there is no such defense.
    """
    DEFENSES.get(name)
    return tried_all(promises(name))


def promises(name: str) -> dict[str, Callable[[], str]]:
    """Every promise, the first one first; each answers with what it found or raises."""
    make = functools.partial(DEFENSES.build, name)
    return {
        "builds with its defaults": functools.partial(builds, name),
        "is described": functools.partial(stated, name),
        "settings survive YAML": functools.partial(survive_yaml, DEFENSES, name),
        "does nothing at its null settings": functools.partial(nothing_at_null, name),
        **{what: functools.partial(check, make) for what, check in PROMISES.items()},
    }


def builds(name: str) -> str:
    """A dataclass derived from Defense, whose fields have defaults, binds where the head is trained."""
    cls = DEFENSES.get(name)
    need(isinstance(cls, type) and issubclass(cls, Defense), f"{cls!r} is no class derived from Defense")
    own = cls is Defense or "__dataclass_fields__" in vars(cls)  # a subclass inherits the mark, not the settings
    need(own, "the class needs @dataclass above it: its fields are the settings")
    defense = DEFENSES.build(name)
    Bench(defense)
    return repr(defense) if settings(defense) else name


def stated(name: str) -> str:
    """A docstring with a line for each setting; a version; where it acts; breakers that exist."""
    found, cls = described(DEFENSES, name), type(DEFENSES.build(name))
    need(cls is Defense or cls.acts != Defense.acts, "acts must say where it acts, as in 'smashed data'")
    for breaker in cls.breakers:
        ATTACKS.build(breaker)
    return found


def nothing_at_null(name: str) -> str:
    """At its null settings it is the undefended baseline.

    A defense declares none where no settings leave everything as it is: `bottleneck` adds two layers at any width,
    `patch-shuffle` always moves something, `max-norm` adds noise wherever two gradients differ in length, and the
    answers of `codebook` and `label-dp` always come with an epsilon.
    """
    cls = type(DEFENSES.build(name))
    null = {} if cls is Defense else cls.null
    if null is None:
        return "declares no null settings"
    nothing_changes(functools.partial(DEFENSES.build, {name: null}))
    return f"{dict(null)}"

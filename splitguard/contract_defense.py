# SPDX-License-Identifier: Apache-2.0
"""The contract that every registered defense passes: `splitguard check NAME`."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from splitguard.api import ATTACKS, DEFENSES, Defense
from splitguard.engine.bench import Bench
from splitguard.engine.promises import PROMISES, Broken, Check, need, nothing_changes
from splitguard.errors import SplitguardError
from splitguard.registry import settings_of

__all__ = ["Check", "check_defense"]


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
    first, *others = promises(name).items()
    built = tried(*first)
    return [built, *(tried(*other) for other in others)] if built.passed else [built]


def promises(name: str) -> dict[str, Callable[[], str]]:
    """Every promise, the first one first; each answers with what it found or raises."""
    make = functools.partial(DEFENSES.build, name)
    return {
        "builds with its defaults": functools.partial(builds, name),
        "is described": functools.partial(described, name),
        "settings survive YAML": functools.partial(survive_yaml, name),
        "does nothing at its null settings": functools.partial(nothing_at_null, name),
        **{what: functools.partial(check, make) for what, check in PROMISES.items()},
    }


def tried(what: str, promise: Callable[[], str]) -> Check:
    """The outcome of one promise, whatever the defense raises."""
    try:
        return Check(what, True, promise())
    except (Broken, SplitguardError) as error:
        return Check(what, False, str(error))
    except Exception as error:  # whatever else a plug-in raises is a finding too, not a failure of the contract
        return Check(what, False, f"{type(error).__name__}: {error}")


def builds(name: str) -> str:
    """A dataclass derived from Defense, whose fields have defaults, binds where the head is trained."""
    cls = DEFENSES.get(name)
    need(isinstance(cls, type) and issubclass(cls, Defense), f"{cls!r} is no class derived from Defense")
    need(cls is Defense or is_dataclass(cls), "the class needs @dataclass above it: its fields are the settings")
    defense = DEFENSES.build(name)
    Bench(defense)
    return repr(defense) if settings(defense) else name


def described(name: str) -> str:
    """A docstring with a line for each setting; a version; where it acts; breakers that exist."""
    defense = DEFENSES.build(name)
    cls = type(defense)
    text = inspect.getdoc(cls) if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(") else ""
    need(bool(text), "the class needs a docstring: a sentence, the formula, Args, the source")
    lines = (text or "").partition("Args:")[2]
    absent = [s for s in settings(defense) if not re.search(rf"^ +(\w+, )*{s}(, \w+)*: ", lines, re.MULTILINE)]
    need(not absent, f"Args in the docstring leaves out {', '.join(absent)}")
    need(type(cls.version) is int and cls.version >= 1, f"version must be a whole number from 1; got {cls.version!r}")
    need(cls is Defense or cls.acts != Defense.acts, "acts must say where it acts, as in 'smashed data'")
    for breaker in cls.breakers:
        ATTACKS.build(breaker)
    return ", ".join(settings(defense)) or "no settings"


def survive_yaml(name: str) -> str:
    """Written to YAML and read again, the settings build an equal defense."""
    import yaml

    own = settings(DEFENSES.build(name))
    written = yaml.safe_dump({name: json.loads(json.dumps(own, allow_nan=False))}, default_flow_style=True)
    again = settings(DEFENSES.build(yaml.safe_load(written)))
    need(again == own, f"{own} came back as {again}")
    return str(written.strip())


def nothing_at_null(name: str) -> str:
    """At its null settings it is the undefended baseline."""
    cls = type(DEFENSES.build(name))
    null = {} if cls is Defense else cls.null
    if null is None:
        return "declares no null settings"
    nothing_changes(functools.partial(DEFENSES.build, {name: null}))
    return f"{dict(null)}"


def settings(defense: Defense) -> dict[str, Any]:
    """Its settings; the undefended baseline has none."""
    return {} if type(defense) is Defense else settings_of(defense)

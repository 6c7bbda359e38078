# SPDX-License-Identifier: Apache-2.0
"""How a promise is tried, and the promises that attacks and defenses make alike."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from splitguard.engine.promises import Broken, Check, need
from splitguard.errors import SplitguardError
from splitguard.registry import Registry, settings_of

__all__ = ["described", "settings", "survive_yaml", "tried", "tried_all"]


def tried_all(promises: Mapping[str, Callable[[], str]]) -> list[Check]:
    """The outcome of each promise; of the first alone where that one, which is to build, is broken."""
    first, *others = promises.items()
    built = tried(*first)
    return [built, *(tried(*other) for other in others)] if built.passed else [built]


def tried(what: str, promise: Callable[[], str]) -> Check:
    """The outcome of one promise, whatever the plug-in raises."""
    try:
        return Check(what, True, promise())
    except (Broken, SplitguardError) as error:
        return Check(what, False, str(error))
    except Exception as error:  # whatever else a plug-in raises is a finding too, not a failure of the contract
        return Check(what, False, f"{type(error).__name__}: {error}")


def settings(plugin: Any) -> dict[str, Any]:
    """Its settings; the undefended baseline, which is no dataclass, has none."""
    return settings_of(plugin) if hasattr(plugin, "__dataclass_fields__") else {}


def described(registry: Registry[Any], name: str) -> str:
    """A docstring with a line for each setting; a version."""
    plugin = registry.build(name)
    cls = type(plugin)
    text = inspect.getdoc(cls) if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(") else ""
    need(bool(text), "the class needs a docstring: a sentence, the formula, Args, the source")
    lines = (text or "").partition("Args:")[2]
    absent = [s for s in settings(plugin) if not re.search(rf"^ +(\w+, )*{s}(, \w+)*: ", lines, re.MULTILINE)]
    need(not absent, f"Args in the docstring leaves out {', '.join(absent)}")
    need(type(cls.version) is int and cls.version >= 1, f"version must be a whole number from 1; got {cls.version!r}")
    return ", ".join(settings(plugin)) or "no settings"


def survive_yaml(registry: Registry[Any], name: str) -> str:
    """Written to YAML and read again, the settings build an equal plug-in."""
    import yaml

    own = settings(registry.build(name))
    written = yaml.safe_dump({name: json.loads(json.dumps(own, allow_nan=False))}, default_flow_style=True)
    again = settings(registry.build(yaml.safe_load(written)))
    need(again == own, f"{own} came back as {again}")
    return str(written.strip())

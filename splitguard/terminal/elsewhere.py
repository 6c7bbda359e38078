# SPDX-License-Identifier: Apache-2.0
"""Classes that are not registered here, written ``package.file:Class``."""

from __future__ import annotations

import importlib

from splitguard.errors import BadSetting, SplitguardError, near_miss

__all__ = ["class_from"]


def class_from(place: str, bases: tuple[type, ...], *, what: str, option: str) -> type:
    """The class at ``module:Class``, whose module is imported.

    Args:
        place: as written.
        bases: one of which it must be derived from.
        what: the noun for it, for messages.
        option: where it was written, for messages.

    Raises:
        BadSetting: if it is written otherwise, cannot be imported, or is no such class.
    """
    path, _, attribute = place.partition(":")
    if not path or not attribute or path.startswith("."):
        raise BadSetting(f"{option} is written package.file:Class; got {place!r}")
    try:
        found = importlib.import_module(path)
    except SplitguardError:
        raise
    except ImportError as error:
        raise BadSetting(
            f"{option} {place}: {error}. It must be importable from here; PYTHONPATH may name its folder"
        ) from error
    except Exception as error:  # a module of somebody else's: whatever it raises on import is its own
        raise BadSetting(f"{option} {place}: {path} raised {type(error).__name__}: {error}. Mend it") from error
    cls = getattr(found, attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, bases)):
        known = [n for n, value in vars(found).items() if isinstance(value, type) and issubclass(value, bases)]
        raise BadSetting(near_miss(attribute, known, what=f"{what} in {path}"))
    return cls

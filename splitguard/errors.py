# SPDX-License-Identifier: Apache-2.0
"""The errors splitguard raises: each says what was wanted, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadCut",
    "BadSetting",
    "DataUnavailable",
    "Diverged",
    "MissingKnowledge",
    "NotSupported",
    "ReleaseRefused",
    "SplitguardError",
    "UnknownName",
    "near_miss",
    "one_of",
]


class SplitguardError(ValueError):
    """Base of every error that a caller's input can cause; a `ValueError`, so plain code can catch it."""


class BadSetting(SplitguardError):
    """A setting has the wrong type, lies outside its range, or contradicts another one."""


class BadCut(SplitguardError):
    """The network cannot be cut there; the message names the nearest legal cuts."""


class UnknownName(SplitguardError):
    """No attack, defense, model, data set, layer or setting of that name; the message offers near misses."""


class MissingKnowledge(SplitguardError):
    """An attack reads something that its adversary was not granted."""


class NotSupported(SplitguardError):
    """A combination that splitguard does not offer; the message says what to use instead."""


class DataUnavailable(SplitguardError):
    """A data set or a set of weights is not on this machine; the message says how to get it."""


class ReleaseRefused(SplitguardError):
    """A row would be sent more often than its privacy guarantee accounts for."""


class Diverged(SplitguardError):
    """A training produced a loss or an activation that is not a finite number."""


def near_miss(name: str, known: Iterable[str], *, what: str) -> str:
    """The message for an unknown name: near misses first, then all that is known.

    Args:
        name: what the caller wrote.
        known: the names that exist.
        what: the noun, as in ``"attack"``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    listed = ", ".join(names) if names else "none"
    return f"unknown {what} {name!r}.{hint} Known: {listed}."


def one_of(owner: str, what: str, value: object, known: Iterable[str]) -> None:
    """Refuses a setting that is none of its words.

    Args:
        owner: the attack or defense whose setting it is.
        what: the setting.
        value: what the caller wrote.
        known: the words that it knows.

    Raises:
        BadSetting: with near misses.
    """
    words = tuple(known)
    if value not in words:
        raise BadSetting(f"{owner}: " + near_miss(str(value), words, what=what))

# SPDX-License-Identifier: Apache-2.0
"""Numbers as text, in one place: what is missing is a dash, never a zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from splitguard.privacy.accounting import verdict

__all__ = [
    "MISSING",
    "bracket",
    "count",
    "decimal",
    "epsilon_words",
    "joined",
    "numbers",
    "percent",
    "plural",
    "points",
    "scaled",
    "victims_of",
]

MISSING = "—"
MINUS = "\N{MINUS SIGN}"
#: Between a number and its unit, so that no line ends there.
FIXED = "\N{NO-BREAK SPACE}"


def decimal(value: float | None, digits: int = 2) -> str:
    """``0.83``; a negative number has a real minus sign, and -0.001 is 0.00.

    >>> decimal(0.8349), decimal(None)
    ('0.83', '—')
    """
    if value is None:
        return MISSING
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in 0..1 as ``83.5 %``."""
    return MISSING if value is None else f"{decimal(100 * value, digits)}{FIXED}%"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, as ``2.4``."""
    return MISSING if value is None else decimal(100 * value, 1)


def bracket(low: float | None, high: float | None, *, percent: bool = False, digits: int = 2) -> str:
    """An interval as ``[0.80, 0.86]``; empty where there is none.

    >>> bracket(0.8, 0.861), bracket(None, None)
    ('[0.80, 0.86]', '')
    """
    if low is None or high is None:
        return ""
    scale, places = (100, 1) if percent else (1, digits)
    return f"[{decimal(scale * low, places)}, {decimal(scale * high, places)}]"


def scaled(value: float | None, unit: str = "") -> str:
    """A large number with three digits and a decimal prefix, as ``1.23 M`` or ``4.56 MB``.

    >>> scaled(61706).split(), scaled(7776000, "B").split(), scaled(0), scaled(None)
    (['61.7', 'k'], ['7.78', 'MB'], '0', '—')
    """
    if value is None:
        return MISSING
    size, prefix = float(value), ""
    for larger in ("k", "M", "G", "T", "P"):
        if abs(size) < 999.5:
            break
        size, prefix = size / 1000, larger
    text = f"{size:.3g}"
    return f"{text}{FIXED}{prefix}{unit}" if prefix or unit else text


def count(value: float | None) -> str:
    """A whole number with narrow spaces between thousands."""
    return MISSING if value is None else f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plural(number: int, noun: str, many: str | None = None) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def joined(parts: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""


def numbers(values: Iterable[int]) -> str:
    """Deployment numbers, runs of three and more shortened: ``#1, #3 to #6``.

    >>> numbers([4, 1, 3, 5, 9, 10])
    '#1, #3 to #5, #9, #10'
    """
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    shown = []
    for run in runs:
        shown += [f"#{run[0]} to #{run[-1]}"] if len(run) > 2 else [f"#{v}" for v in run]
    return ", ".join(shown)


def victims_of(phase: str) -> str:
    """Which rows a phase attacks, for people."""
    return {"training": "member victims", "query": "query victims"}.get(phase, f"{phase} victims")


def epsilon_words(
    epsilon: float | None, rows: float | None, query: float | None, delta: float | None = None, adjacency: str = ""
) -> tuple[str, str]:
    """What the epsilons of a deployment say: a few words, and what they cover, at which delta and adjacency.

    >>> epsilon_words(None, 200.0, None)[0]
    'no meaningful guarantee'
    """
    for value, scope in ((epsilon, "the whole view"), (rows, "own messages only"), (query, "one query only")):
        if value is not None:
            said, worthless = f"ε{FIXED}={FIXED}{value:.4g}", verdict(value)
            terms = [scope, *([f"δ{FIXED}={FIXED}{delta:.3g}"] if delta else [])]
            terms += [adjacency] if adjacency not in ("", "replace-one") else []
            return (worthless, ", ".join([said, *terms])) if worthless else (said, ", ".join(terms))
    return MISSING, ""

# SPDX-License-Identifier: Apache-2.0
"""One number of the records of one attack, all seeds together, with the interval that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from splitguard.matrix import Record
from splitguard.metrics.stats import clopper_pearson, t_interval
from splitguard.reports.tables import Entry
from splitguard.reports.words import bracket, decimal, percent

__all__ = ["Ends", "Measure", "area", "columns", "number", "share_right", "unknown"]

Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Measure:
    """One column of a panel.

    Attributes:
        column: of results.csv.
        title: with an arrow where it says how much leaks.
        help: what it means, in a sentence.
        share: shown in percent; else as a number.
        ends: its 95 % interval in the record of one seed; None for what is shown without any, whatever the seeds.
        limits: what is possible, of which Student's t knows nothing.
    """

    column: str
    title: str
    help: str
    share: bool = True
    ends: Callable[[Record], Ends] | None = None
    limits: tuple[float, float] = (0.0, 1.0)

    def entry(self, records: Sequence[Record]) -> Entry:
        """The mean over seeds with Student's t interval; of one seed its own interval; missing as a dash."""
        mean, low, high = self.known(records)
        shown = percent(mean) if self.share else decimal(mean)
        return Entry(shown, mean, bracket(low, high, percent=self.share))

    def known(self, records: Sequence[Record]) -> tuple[float | None, float | None, float | None]:
        """The mean over the seeds that have a value, and the ends of its interval."""
        found = [(r, float(value)) for r in records if (value := r.values.get(self.column)) is not None]
        if not found:
            return None, None, None
        values = [value for _, value in found]
        mean, over = sum(values) / len(values), t_interval(values)
        if self.ends is None:
            return mean, None, None
        low, high = (over.low, over.high) if over else self.ends(found[0][0])
        least, most = self.limits
        return mean, None if low is None else max(low, least), None if high is None else min(high, most)


def columns(low: str, high: str) -> Callable[[Record], Ends]:
    """An interval that the record holds."""
    return lambda record: (number(record, low), number(record, high))


def share_right(record: Record) -> Ends:
    """Clopper-Pearson, of the share of attributes guessed right."""
    share, n = number(record, "attribute_accuracy"), number(record, "n")
    if share is None or not n:
        return None, None
    found = clopper_pearson(round(share * n), int(n))
    return found.low, found.high


def area(record: Record) -> Ends:
    """Of the AUC, from that of the leakage, which is 2 AUC - 1."""
    ends = (number(record, "leakage_low"), number(record, "leakage_high"))
    low, high = (None if end is None else (1 + end) / 2 for end in ends)
    return low, high


def unknown(_: Record) -> Ends:
    """One seed says nothing; several do."""
    return None, None


def number(record: Record, column: str) -> float | None:
    """A column of a record; None where it is missing."""
    value = record.values.get(column)
    return None if value is None else float(value)

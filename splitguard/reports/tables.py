# SPDX-License-Identifier: Apache-2.0
"""The table of deployments: as columns that the page lays out, as a data frame, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from splitguard.api import Goal
from splitguard.errors import BadSetting, near_miss
from splitguard.reports.facts import Deployment
from splitguard.reports.gather import deployments
from splitguard.reports.words import MISSING, bracket, decimal, percent, points, scaled

if TYPE_CHECKING:
    import pandas as pd

    from splitguard.matrix import Results

__all__ = ["COLUMNS", "NOT_EVALUATED", "Column", "Entry", "markdown", "table"]

NOT_EVALUATED = "not evaluated"
#: What `markdown` shows unless told otherwise.
BRIEF = ("number", "name", "accuracy", "drop", "inputs", "reid", "labels", "epsilon")


@dataclass(frozen=True)
class Entry:
    """One field of the table.

    Attributes:
        text: what is read.
        sort: what it is sorted by; None, for what is missing, comes last.
        interval: shown smaller, after it.
        note: shown smaller, below it.
    """

    text: str
    sort: float | str | None = None
    interval: str = ""
    note: str = ""

    @property
    def missing(self) -> bool:
        """Whether there is no value."""
        return self.sort is None

    def __str__(self) -> str:
        more = [self.interval] if self.interval else []
        more += [f"({self.note})"] if self.note else []
        return " ".join([self.text, *more])


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: for programs.
        title: with an arrow that points to where better is.
        help: what it means, in a sentence.
        entry: of one deployment.
        numeric: set flush right.
    """

    key: str
    title: str
    help: str
    entry: Callable[[Deployment], Entry]
    numeric: bool = True


def _status(d: Deployment) -> Entry:
    if d.honest is None:
        broken = [r for r in d.records if r.status != "ok"]
        return Entry(broken[0].status if broken else "not run", note="no accuracy")
    counts = [
        (d.row.get("attacks_failed"), "failed"),
        (d.row.get("attacks_weak"), "weak"),
    ]
    note = ", ".join(f"{n} {what}" for n, what in counts if n)
    word = {True: "usable", False: "unusable", None: "trained"}[d.usable]
    return Entry(word, word, note=note)


def _accuracy(d: Deployment) -> Entry:
    low, high = d.number_of("accuracy_low"), d.number_of("accuracy_high")
    alone = d.number_of("aux_accuracy")
    note = "" if alone is None else f"{percent(alone)} from auxiliary data alone"
    return Entry(percent(d.accuracy), d.accuracy, bracket(low, high, percent=True), note)


def _drop(d: Deployment) -> Entry:
    return Entry(points(d.number_of("accuracy_drop")), d.number_of("accuracy_drop"))


def _worst(column: str, goal: Goal, *, share: bool = False) -> Callable[[Deployment], Entry]:
    def entry(d: Deployment) -> Entry:
        worst = d.worst(column)
        if worst is None:
            return Entry(NOT_EVALUATED, note=d.why_not(goal))
        text = percent(worst.value) if share else decimal(worst.value)
        first = d.worst("worst_input")
        same = share and first is not None and (first.attack, first.phase) == (worst.attack, worst.phase)
        parts = [] if same else [worst.attack]
        parts += ["queries"] if worst.phase == "query" and not same else []
        parts += [] if worst.supported else ["weak"]
        return Entry(text, worst.value, bracket(worst.low, worst.high, percent=share), ", ".join(parts))

    return entry


def _epsilon(d: Deployment) -> Entry:
    value = {name: d.number_of(name) for name in ("epsilon", "epsilon_rows", "epsilon_query")}
    text, scope = d.guarantee()
    if text == MISSING:
        return Entry("none stated" if d.records else MISSING)
    return Entry(text, next(v for v in value.values() if v is not None), note=scope)


def _scaled(column: str, unit: str = "") -> Callable[[Deployment], Entry]:
    return lambda d: Entry(scaled(d.number_of(column), unit), d.number_of(column))


def _traffic(d: Deployment) -> Entry:
    up, down = d.number_of("bytes_up"), d.number_of("bytes_down")
    if up is None or down is None:
        return Entry(MISSING)
    return Entry(scaled(up, "B"), up, note=f"{scaled(down, 'B')} down")


_WORST_INPUT, _WORST_LABEL = _worst("worst_input", Goal.INPUTS), _worst("worst_label", Goal.LABELS)
COLUMNS: tuple[Column, ...] = (
    Column("number", "#", "number of the deployment in this report", lambda d: Entry(str(d.number), d.number)),
    Column("name", "deployment", "mode, cut and defense", lambda d: Entry(d.name, d.name), numeric=False),
    Column("status", "status", "usable: accuracy at least chance + 5 points", _status, numeric=False),
    Column("accuracy", "accuracy ↑", "test accuracy of the deployed pipeline, defense on", _accuracy),
    Column("drop", "drop ↓", "percentage points below the undefended twin", _drop),
    Column("inputs", "inputs ↓", "worst leakage of inputs: 0 blind guess, 1 perfect", _WORST_INPUT),
    Column(
        "reid", "re-identified ↓", "worst share of guesses nearest to their own victim; same attack unless named",
        _worst("worst_reid", Goal.INPUTS, share=True),
    ),
    Column("labels", "labels ↓", "worst leakage of labels: 0 blind guess, 1 perfect", _WORST_LABEL),
    Column("epsilon", "guarantee", "the epsilon of the inputs, and what it covers", _epsilon),
    Column("client_params", "client params", "parameters the client trains and holds", _scaled("client_params")),
    Column("client_flops", "client FLOPs", "of one row's forward pass through the client", _scaled("client_flops")),
    Column("traffic", "sent up", "by the clients in the whole training, and down to them", _traffic),
)  # fmt: skip


def table(results: Results) -> pd.DataFrame:
    """One row a deployment, as texts for people; the numbers are in ``results.summary``."""
    import pandas as pd

    rows = [[str(column.entry(d)) for column in COLUMNS] for d in deployments(results)]
    return pd.DataFrame(rows, columns=[column.title for column in COLUMNS]).set_index(COLUMNS[0].title)


def markdown(results: Results, columns: Sequence[str] = BRIEF) -> str:
    """The table of deployments in Markdown, intervals included, who attacked left out.

    Args:
        results: of a run.
        columns: keys of `COLUMNS`, in the order wanted.

    Raises:
        BadSetting: for an unknown column, with near misses.
    """
    known = {column.key: column for column in COLUMNS}
    for key in columns:
        if key not in known:
            raise BadSetting(near_miss(key, known, what="column"))
    chosen = [known[key] for key in columns]
    lines = [
        _line([column.title for column in chosen]),
        _line(["---:" if column.numeric else "---" for column in chosen]),
    ]
    for d in deployments(results):
        entries = [column.entry(d) for column in chosen]
        lines.append(_line([f"{_plain(e.text)} {e.interval}".strip() for e in entries]))
    return "\n".join(lines) + "\n"


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _plain(text: str) -> str:
    """What a user named, so that Markdown takes it for text: no tags, links, emphasis or further columns."""
    out = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\|`*_[]":
        out = out.replace(sign, f"\\{sign}")
    return " ".join(out.split())

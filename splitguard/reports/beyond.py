# SPDX-License-Identifier: Apache-2.0
"""What else leaks: attributes, membership and the network's function, each beside what is had without an attack."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from splitguard.api import Goal
from splitguard.matrix import Record
from splitguard.reports.facts import Deployment
from splitguard.reports.measures import Measure, area, columns, number, share_right, unknown
from splitguard.reports.still import gauge
from splitguard.reports.tables import Entry
from splitguard.reports.words import MISSING, count, joined, numbers, plural, victims_of

__all__ = ["Finding", "Panel", "beyond", "heading"]


@dataclass(frozen=True)
class Finding:
    """One attack on one deployment in one phase, all seeds together.

    Attributes:
        deployment, attack: which.
        whom: the rows it answers for, and the number of seeds.
        entries: one for each measure of the panel.
        gauge: what it reaches between what is had without an attack and what there is to be had, as SVG.
        n: answers of one seed.
    """

    deployment: Deployment
    attack: str
    whom: str
    entries: tuple[Entry, ...]
    gauge: str
    n: str


@dataclass(frozen=True)
class Panel:
    """One goal.

    Attributes:
        name: of the goal, for links.
        title, about: for people; ``about`` says what is compared with what.
        drawn: what the gauge shows.
        measures: the columns.
        findings: the rows, deployments in their order.
        unknown: which deployments have none, and why.
    """

    name: str
    title: str
    about: str
    drawn: str
    measures: tuple[Measure, ...]
    findings: tuple[Finding, ...]
    unknown: str


@dataclass(frozen=True)
class _Goal:
    """How one goal is shown.

    Attributes:
        title, about, drawn: as in `Panel`.
        measures: the first is what the attack reaches; then come what is had without it, and others.
        blind, best: columns of what is had without the attack, and of all there is to be had; None: 1.
        words: what these two are called.
    """

    title: str
    about: str
    drawn: str
    measures: tuple[Measure, ...]
    best: str | None = None
    words: tuple[str, str] = ("without the attack", "bound")


_LEAKAGE = Measure(
    "leakage", "leakage ↓", "0 without an attack, 1 all there is to be had", share=False,
    ends=columns("leakage_low", "leakage_high"), limits=(-math.inf, math.inf),
)  # fmt: skip
_GOALS: dict[Goal, _Goal] = {
    Goal.ATTRIBUTE: _Goal(
        "Attributes",
        "The network is trained on coarse labels; the attack names the fine class of each victim, which is no part of "
        "the task. The prior is the same attacker without a look at smashed data: the most frequent value, or that of "
        "the victim's label where the label is sent. Balanced accuracy is the mean recall over the values.",
        "prior (dotted), balanced accuracy (bar)",
        (
            Measure(
                "balanced_accuracy", "balanced accuracy ↓", "mean recall over the attribute's values", ends=unknown
            ),
            Measure("blind", "prior", "balanced accuracy without a look at smashed data"),
            Measure("attribute_accuracy", "accuracy ↓", "share of victims named right", ends=share_right),
            _LEAKAGE,
        ),
        words=("prior", "bound"),
    ),
    Goal.MEMBERSHIP: _Goal(
        "Membership",
        "The attack tells rows that were trained on from others of the same kind. Chance is an AUC of 0.50, and 1 % of "
        "the members found where 1 % of the strangers may be taken for members. A small AUC can hide a few rows that "
        "are found for sure; that is what the second number is for.",
        "chance (dotted), AUC (bar)",
        (
            Measure("membership_auc", "AUC ↓", "a member's score exceeds a stranger's", share=False, ends=area),
            Measure("blind", "chance", "AUC of any guess that knows nothing of who was trained on", share=False),
            Measure(
                "membership_tpr", "found at 1 % FPR ↓", "members found while 1 % of strangers are taken for members",
                ends=columns("membership_tpr_low", "membership_tpr_high"),
            ),
            _LEAKAGE,
        ),
        words=("chance", "bound"),
    ),
    Goal.FUNCTIONALITY: _Goal(
        "Stolen networks",
        "The attack hands over client layers of its own; with the server's layers they are tested on rows that nobody "
        "has seen. Beside it stands what needs no wire: the better of a network trained alone on the attacker's own "
        "rows and the class most frequent among them.",
        "trained alone (dotted), stolen (bar), deployed (line)",
        (
            Measure(
                "stolen_accuracy", "stolen ↓", "test accuracy of the server's layers behind the stolen ones",
                ends=columns("stolen_low", "stolen_high"),
            ),
            Measure("blind", "trained alone", "test accuracy of the best that needs no wire"),
            Measure("deployed_accuracy", "deployed", "test accuracy of the deployment on the same rows"),
            _LEAKAGE,
        ),
        best="deployed_accuracy",
        words=("trained alone", "deployed"),
    ),
}  # fmt: skip


def beyond(everyone: Sequence[Deployment]) -> list[Panel]:
    """A panel for each of the three goals that the matrix asks for."""
    return [
        Panel(
            goal.value,
            how.title,
            how.about,
            how.drawn,
            how.measures,
            tuple(finding for d in everyone for finding in _findings(d, goal, how)),
            _unknown(everyone, goal),
        )
        for goal, how in _GOALS.items()
        if any(d.asks(goal) for d in everyone)
    ]


def heading(panels: Sequence[Panel]) -> str:
    """Of the section: the goals that it shows."""
    return joined([panel.title.lower() for panel in panels]).capitalize()


def _findings(deployment: Deployment, goal: Goal, how: _Goal) -> Iterator[Finding]:
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in deployment.finished(goal):
        groups[deployment.attack_of(record), record.phase].append(record)
    for (attack, phase), records in groups.items():
        whom = {Goal.ATTRIBUTE: f"{victims_of(phase)}, "}.get(goal, "")
        yield Finding(
            deployment,
            attack,
            f"{whom}{plural(len(records), 'seed')}",
            tuple(measure.entry(records) for measure in how.measures),
            _gauge(records, how),
            _answers(records),
        )


def _gauge(records: Sequence[Record], how: _Goal) -> str:
    """Empty where what it would show is missing."""
    value, low, high = how.measures[0].known(records)
    blind, _, _ = how.measures[1].known(records)
    best = None if how.best is None else Measure(how.best, "", "").known(records)[0]
    return "" if value is None or blind is None else gauge(value, low, high, chance=blind, bound=best, words=how.words)


def _answers(records: Sequence[Record]) -> str:
    found = sorted({int(n) for r in records if (n := number(r, "n")) is not None})
    return " to ".join(dict.fromkeys((count(found[0]), count(found[-1])))) if found else MISSING


def _unknown(everyone: Sequence[Deployment], goal: Goal) -> str:
    """``Not evaluated: #3 (refused), #4, #5 (not run yet).``; empty if all were."""
    groups: dict[str, list[int]] = defaultdict(list)
    for d in everyone:
        if not d.finished(goal):
            groups[d.why_not(goal)].append(d.number)
    return f"Not evaluated: {', '.join(f'{numbers(n)} ({why})' for why, n in groups.items())}." if groups else ""

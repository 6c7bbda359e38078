# SPDX-License-Identifier: Apache-2.0
"""What detectors noticed: for each deployment that has one, and each server it met, whether it raised the alarm."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from splitguard.matrix.alarms import Watch, watched
from splitguard.metrics.stats import clopper_pearson
from splitguard.reports.facts import Deployment
from splitguard.reports.words import MISSING, bracket, count, percent, plural

__all__ = ["HONEST", "Noticed", "noticed"]

HONEST = "honest"


@dataclass(frozen=True)
class Noticed:
    """One deployment with a detector, and one kind of server.

    Attributes:
        deployment: which.
        server: the attack in the server's seat, or `HONEST`.
        verdict: in a few words.
        wrong: the verdict is a mistake: no alarm under attack, or one without.
        share, interval: of the sessions that raised the alarm, with its Clopper-Pearson interval.
        step: of the first alarm, median and range over the sessions that raised it.
        rows: different training rows sent by the end of that step, likewise.
        stopped: how many sessions the alarm ended.
    """

    deployment: Deployment
    server: str
    verdict: str
    wrong: bool
    share: str
    interval: str
    step: str
    rows: str
    stopped: str


def noticed(everyone: Sequence[Deployment]) -> list[Noticed]:
    """Every deployment whose sessions a detector watched, honest servers first; none for a run without detectors."""
    return [_noticed(d, watch) for d in everyone for watch in watched(d.records)]


def _noticed(deployment: Deployment, watch: Watch) -> Noticed:
    attacked = watch.attack is not None
    limits = clopper_pearson(watch.raised, watch.sessions)
    return Noticed(
        deployment=deployment,
        server=HONEST if watch.attack is None else deployment.attacks.get(watch.attack, watch.attack),
        verdict=_verdict(watch),
        wrong=watch.raised < watch.sessions if attacked else watch.raised > 0,
        share=percent(watch.raised / watch.sessions),
        interval=bracket(limits.low, limits.high, percent=True),
        step=_middle(watch.steps),
        rows=_middle(watch.rows),
        stopped=f"{watch.stopped} of {watch.sessions}",
    )


def _verdict(watch: Watch) -> str:
    """Whether it raised the alarm, and whether it should have."""
    sessions = plural(watch.sessions, "session")
    if watch.judged == 0:
        return f"never judged in {sessions}: too short for its warm-up or window"
    if watch.raised == 0:
        return f"no alarm in {sessions}" + ("" if watch.attack is None else ": missed")
    said = f"alarm in {watch.raised} of {sessions}"
    return said if watch.attack is not None else f"{said}: false"


def _middle(values: Sequence[int]) -> str:
    """The median, and the range where there is one."""
    if not values:
        return MISSING
    ends = f" ({count(values[0])} to {count(values[-1])})" if values[0] != values[-1] else ""
    return f"{count(statistics.median(values))}{ends}"

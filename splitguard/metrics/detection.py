# SPDX-License-Identifier: Apache-2.0
"""How well a client detects a hijacking: when the alarm rises, how often wrongly, and what was sent before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.metrics.stats import Interval, clopper_pearson

__all__ = ["DetectionRates", "detection_rates", "first_alarm", "rows_sent_before"]

#: One session: (step, score) of each judgement, in order of time; the score is above 1/2 where the alarm is raised.
Alarms = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class DetectionRates:
    """What a detector does over many sessions.

    Attributes:
        true_positives: the share of attacked sessions with an alarm at or after the attack's start.
        true_interval: its Clopper-Pearson interval.
        false_positives: the share of honest sessions with any alarm; None without honest sessions.
        false_interval: its interval.
        step_false_positives: the share of all judgements on honest sessions that raise the alarm. Judgements of one
            session share their window and are no independent trials, so it has no interval.
        steps_to_detection: median over the detected sessions, in steps from the attack's start; None if none was.
        detected, attacked, false_alarms, honest: the counts behind the shares.
    """

    true_positives: float | None
    true_interval: Interval | None
    false_positives: float | None
    false_interval: Interval | None
    step_false_positives: float | None
    steps_to_detection: float | None
    detected: int
    attacked: int
    false_alarms: int
    honest: int


def first_alarm(alarms: Alarms, *, threshold: float = 0.5, start: int = 0) -> int | None:
    """The first step at or after ``start`` whose score lies above ``threshold``; None if there is none.

    Raises:
        BadSetting: for steps out of order, scores outside [0, 1], or a threshold outside [0, 1).
    """
    _check(alarms, threshold)
    return next((step for step, score in alarms if step >= start and score > threshold), None)


def rows_sent_before(sent: Iterable[tuple[int, Tensor]], alarm: int | None) -> int:
    """How many different rows were sent up to and including the step of the alarm: what it came too late for.

    Args:
        sent: (step, ids (N,)) of each batch; ids may repeat.
        alarm: as from `first_alarm`; None counts all rows, as nothing stopped them.
    """
    ids = [rows.flatten() for step, rows in sent if alarm is None or step <= alarm]
    return len(torch.cat(ids).unique()) if ids else 0


def detection_rates(
    attacked: Sequence[Alarms], honest: Sequence[Alarms], *, threshold: float = 0.5, start: int = 0
) -> DetectionRates:
    """True and false alarms over sessions, and over the judgements within honest ones.

    Args:
        attacked: sessions with a server that hijacks from step ``start`` on.
        honest: sessions with an honest server.
        threshold: above it the alarm is raised.
        start: of the attack; an alarm before it is none of its detection.

    Raises:
        BadSetting: as `first_alarm`; without any session.
    """
    if not attacked and not honest:
        raise BadSetting("detection rates are shares of sessions; got neither attacked nor honest ones")
    found = [first_alarm(each, threshold=threshold, start=start) for each in attacked]
    times = [float(step - start) for step in found if step is not None]
    wrong = [first_alarm(each, threshold=threshold) is not None for each in honest]
    judged = [score > threshold for each in honest for _, score in each]
    true, false = _share(len(times), len(found)), _share(sum(wrong), len(wrong))
    return DetectionRates(
        true_positives=true[0],
        true_interval=true[1],
        false_positives=false[0],
        false_interval=false[1],
        step_false_positives=sum(judged) / len(judged) if judged else None,
        steps_to_detection=float(torch.tensor(times, dtype=torch.float64).quantile(0.5)) if times else None,
        detected=len(times),
        attacked=len(found),
        false_alarms=sum(wrong),
        honest=len(wrong),
    )


def _share(count: int, total: int) -> tuple[float | None, Interval | None]:
    return (count / total, clopper_pearson(count, total)) if total else (None, None)


def _check(alarms: Alarms, threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise BadSetting(f"threshold must lie in [0, 1); got {threshold!r}")
    steps = [step for step, _ in alarms]
    if steps != sorted(steps) or not all(0 <= score <= 1 for _, score in alarms):
        raise BadSetting(f"alarms are (step, score) in order of time, scores in 0..1; got {list(alarms)[:5]!r} ...")

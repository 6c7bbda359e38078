# SPDX-License-Identifier: Apache-2.0
"""Detection metrics: the first alarm, what was sent before it, and rates over sessions, all by hand."""

from __future__ import annotations

import pytest
import torch

from splitguard.errors import BadSetting
from splitguard.metrics.detection import detection_rates, first_alarm, rows_sent_before
from splitguard.metrics.stats import clopper_pearson

CALM = [(0, 0.1), (1, 0.5), (2, 0.2)]
LATE = [(0, 0.1), (3, 0.4), (7, 0.9), (8, 0.95)]
EARLY = [(2, 0.8), (5, 0.2)]


def test_the_first_alarm_lies_above_the_threshold() -> None:
    assert first_alarm(CALM) is None  # a half is no alarm yet
    assert first_alarm(LATE) == 7
    assert first_alarm(LATE, threshold=0.3) == 3
    assert first_alarm(LATE, start=8) == 8
    assert first_alarm(EARLY, start=3) is None
    assert first_alarm([]) is None


def test_rows_are_counted_once_up_to_the_alarm() -> None:
    sent = [(0, torch.tensor([4, 5])), (1, torch.tensor([5, 6])), (2, torch.tensor([4, 7])), (3, torch.tensor([8]))]
    assert [rows_sent_before(sent, step) for step in (0, 1, 2, 3, None)] == [2, 3, 4, 5, 5]
    assert rows_sent_before([], None) == 0


def test_rates_over_sessions() -> None:
    found = detection_rates([LATE, EARLY, CALM, LATE], [CALM, EARLY, CALM])
    assert (found.detected, found.attacked, found.false_alarms, found.honest) == (3, 4, 1, 3)
    assert found.true_positives == 3 / 4
    assert found.false_positives == 1 / 3
    assert found.true_interval == clopper_pearson(3, 4)
    assert found.false_interval == clopper_pearson(1, 3)
    assert found.step_false_positives == 1 / 8
    assert found.steps_to_detection == 7  # of 2, 7, 7


def test_an_attack_that_starts_later_is_timed_from_there() -> None:
    found = detection_rates([LATE, EARLY], [EARLY], start=4)
    assert (found.detected, found.steps_to_detection) == (1, 3)  # EARLY rose before there was anything to detect
    assert found.false_positives == 1


def test_what_was_not_measured_is_missing_not_zero() -> None:
    nobody_honest = detection_rates([CALM], [])
    assert (nobody_honest.false_positives, nobody_honest.false_interval) == (None, None)
    assert (nobody_honest.true_positives, nobody_honest.steps_to_detection) == (0, None)
    assert nobody_honest.step_false_positives is None
    assert detection_rates([], [[]]).true_positives is None


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(BadSetting, match="got neither attacked nor honest ones"):
        detection_rates([], [])
    with pytest.raises(BadSetting, match="in order of time"):
        first_alarm([(3, 0.1), (2, 0.1)])
    with pytest.raises(BadSetting, match=r"scores in 0\.\.1"):
        first_alarm([(3, 1.5)])
    with pytest.raises(BadSetting, match="threshold must lie"):
        first_alarm(CALM, threshold=1.0)

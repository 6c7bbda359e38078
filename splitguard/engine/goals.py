# SPDX-License-Identifier: Apache-2.0
"""On which victims each goal is scored, and where it makes sense at all."""

from __future__ import annotations

from splitguard.data.rows import Data
from splitguard.engine.threat import Goal
from splitguard.errors import NotSupported

__all__ = ["NO_ATTRIBUTE", "TRAINING_ONLY", "check_goal"]

#: Goals that are scored once a session, in the phase training, and why not in the phase query.
TRAINING_ONLY = {
    Goal.LABELS: "labels are attacked while training: a query returns no gradient",
    Goal.MEMBERSHIP: "membership is scored on member and query victims together, under the phase training",
    Goal.FUNCTIONALITY: "a stolen head is scored on the test rows, once, under the phase training",
}
#: Why an attribute is attacked nowhere in data that has none.
NO_ATTRIBUTE = (
    "these rows have no attribute to infer; train on coarse labels, as in data: {coarse: [0, 0, 1, 1]}, so that the "
    "class is one"
)


def check_goal(goal: Goal, phase: str, data: Data) -> None:
    """Refuses a goal where it makes no sense.

    Raises:
        NotSupported: for a phase in which it is not scored, or an attribute that the data does not have.
    """
    if phase != "training" and goal in TRAINING_ONLY:
        raise NotSupported(TRAINING_ONLY[goal])
    if goal is Goal.ATTRIBUTE and data.attribute_classes is None:
        raise NotSupported(NO_ATTRIBUTE)

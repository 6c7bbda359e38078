# SPDX-License-Identifier: Apache-2.0
"""The numbers of a trained session, as columns and as plain data, so that nobody must load it to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from splitguard.matrix.alarms import alarm_columns
from splitguard.matrix.unbiased import unbiased_columns

if TYPE_CHECKING:
    from splitguard.engine.session import Session
    from splitguard.matrix.record import Value
    from splitguard.privacy import Guarantee

__all__ = ["Outcome", "session_outcome"]

PHASES = ("training", "query")
COSTS = ("client_params", "server_params", "client_flops", "server_flops", "bytes_up", "bytes_down", "bytes_handover")


@dataclass(frozen=True)
class Outcome:
    """The numbers of one session.

    Attributes:
        values: columns of results.csv that the session fills, for any attack on it.
        releases: T by phase.
        extra: guarantees in words and as data, history, digest, alarms, number of test rows, chance.
        phased: by phase, columns in which its records differ beside T.
        files: bytes of each of the session's files, so that a damaged one is noticed.
    """

    values: Mapping[str, Value]
    releases: Mapping[str, int | None]
    extra: Mapping[str, Any] = field(default_factory=dict)
    phased: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)

    def columns(self, phase: str) -> dict[str, Value]:
        """The session's columns in a row of this phase."""
        return {**self.values, **self.phased.get(phase, {}), "releases": self.releases.get(phase)}


def session_outcome(session: Session) -> Outcome:
    """The numbers of ``session``; numbers that are not finite are missing."""
    test = session.data.test.labels
    chance = float(torch.bincount(test).max() / len(test)) if len(test) else None
    return Outcome(
        values={
            **_privacy(session.guarantees),
            **alarm_columns(session),
            "accuracy": session.accuracy,
            **({} if session.auc is None else {"auc": session.auc}),
            "aux_accuracy": session.aux_accuracy,
            **{name: _whole(session.costs.get(name)) for name in COSTS},
            "train_seconds": session.costs.get("train_seconds"),
        },
        releases={phase: session.releases(phase) for phase in PHASES},
        phased={phase: unbiased_columns(session, phase) for phase in PHASES},
        extra={
            "guarantees": [str(g) for g in session.guarantees],
            "guarantee_data": [g.as_dict() for g in session.guarantees],
            "history": [{k: _finite(v) for k, v in epoch.items()} for epoch in session.history],
            "alarms": [[step, a.score, a.stop] for step, a in session.alarms],
            "digest": session.digest,
            "data_digest": session.data.digest,
            "partition": session.data.partition,
            "test_rows": len(test),
            "chance": chance,
            "cut_shapes": [list(shape) for shape in session.cut_shapes],
        },
    )


def _privacy(guarantees: Sequence[Guarantee]) -> dict[str, Value]:
    """The columns of the strongest statement about the inputs; all missing without one."""
    about_inputs = [g for g in guarantees if g.channel == "inputs"]

    def strength(one: Guarantee) -> tuple[float, ...]:
        stated = [math.inf if value is None else value for value in (one.epsilon, one.epsilon_rows, one.epsilon_query)]
        # The same number says more between any two rows than against the zero row.
        weaker = one.adjacency != "replace-one"
        return (stated[0] == math.inf, weaker, *stated)

    best = min(about_inputs, key=strength, default=None)
    if best is None:
        return dict.fromkeys(("epsilon", "epsilon_rows", "epsilon_query", "delta", "adjacency"))
    return {
        "epsilon": best.epsilon,
        "epsilon_rows": best.epsilon_rows,
        "epsilon_query": best.epsilon_query,
        "delta": best.delta,
        "adjacency": best.adjacency,
    }


def _whole(value: float | None) -> float | int | None:
    """Counts as integers."""
    return int(value) if value is not None and float(value).is_integer() else value


def _finite(value: float | int | None) -> float | int | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value

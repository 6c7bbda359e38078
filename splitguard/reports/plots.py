# SPDX-License-Identifier: Apache-2.0
"""Leakage against accuracy, one panel for inputs and one for labels, with the front of what nothing else beats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from splitguard.api import Goal
from splitguard.metrics.stats import pareto_front
from splitguard.reports.chart import NEUTRAL, PALETTE, SYMBOLS, Axis, Chart, Mark, Series, colours
from splitguard.reports.dodge import spread
from splitguard.reports.facts import Deployment, Worst
from splitguard.reports.gather import comparable, deployments
from splitguard.reports.live import figure
from splitguard.reports.words import (
    MISSING,
    bracket,
    decimal,
    numbers,
    percent,
    points,
    scaled,
    victims_of,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from splitguard.matrix import Results

__all__ = ["FRONT", "Look", "front", "plot_tradeoff", "tradeoff", "tradeoffs"]

#: Name of the panel, the column it shows, and what the column is about. Inputs and labels are never merged.
PANELS = (("inputs", "worst_input", "Inputs"), ("labels", "worst_label", "Labels"))
GOALS = {"worst_input": Goal.INPUTS, "worst_label": Goal.LABELS}
#: Leakage is drawn in 0..1; a little room keeps marks at the ends whole.
LEAKAGE = (-0.03, 1.03)
FRONT = "Pareto front"


def plot_tradeoff(results: Results) -> Figure:
    """Worst leakage against test accuracy as a Plotly figure: inputs to the left, labels to the right.

    One mark a deployment: the colour is the defense, the shape the mode, outlined what is unusable. What was not
    evaluated is not drawn. The dashed line is the Pareto front of the usable deployments; intervals are those of
    summary.csv.
    """
    everyone = deployments(results)
    return figure(*tradeoffs(everyone, Look.of(everyone)))


@dataclass(frozen=True)
class Look:
    """Which colour a defense has, and which shape a mode.

    Attributes:
        paint: by defense with its settings; by kind of defense, where they are too many.
        shapes: by mode.
    """

    paint: Mapping[str, str]
    shapes: Mapping[str, str]

    @classmethod
    def of(cls, everyone: Sequence[Deployment]) -> Look:
        """Of all deployments of a report, so that every panel shows them alike."""
        full = list(dict.fromkeys(d.defense for d in everyone))
        names = full if len(full) <= len(PALETTE) + 1 else list(dict.fromkeys(map(_kind, everyone)))
        modes = list(dict.fromkeys(d.mode for d in everyone))
        paint = colours(names, neutral=["none"])
        return cls(paint, {mode: SYMBOLS[i % len(SYMBOLS)] for i, mode in enumerate(modes)})

    def defense(self, deployment: Deployment) -> str:
        """Under which name its colour is filed."""
        return deployment.defense if deployment.defense in self.paint else _kind(deployment)


def tradeoffs(everyone: Sequence[Deployment], look: Look) -> list[Chart]:
    """A panel for inputs and one for labels; such a pair for each data set, as accuracies on two do not compare."""
    groups = comparable(everyone)
    return [
        tradeoff(group, look, f"{name}{i}", column, title if len(groups) == 1 else f"{title}, {dataset}")
        for i, (dataset, group) in enumerate(groups.items())
        for name, column, title in PANELS
    ]


def tradeoff(group: Sequence[Deployment], look: Look, name: str, column: str, title: str) -> Chart:
    """One panel of deployments that may be held against each other."""
    drawn = [(d, w) for d in group if d.accuracy is not None and (w := d.worst(column)) is not None]
    groups: dict[tuple[str, str, bool], list[Mark]] = defaultdict(list)
    for deployment, worst in drawn:
        alike = (look.defense(deployment), deployment.mode, deployment.usable is False)
        groups[alike].append(_mark(deployment, worst))
    series = [
        Series(
            name=f"{defense}, {mode}" + (" (unusable)" if unusable else ""),
            marks=tuple(marks),
            colour=look.paint[defense],
            symbol=look.shapes[mode],
            hollow=unusable,
        )
        for (defense, mode, unusable), marks in groups.items()
    ]
    x = _accuracy_axis([d for d, _ in drawn])
    steps = _steps(front(drawn), x)
    line = [Series(FRONT, steps, colour=NEUTRAL, symbol=None, line="dash")] if steps else []
    said = "; ".join(f"{d.number}: {decimal(w.value)} at {percent(d.accuracy)}" for d, w in drawn)
    chart = Chart(
        name=name,
        title=f"{title}: worst leakage against accuracy",
        x=x,
        y=Axis("worst leakage (lower is better)", *LEAKAGE),
        series=(*line, *series),
        alt=f"{title}: worst leakage at test accuracy, by deployment number. {said or 'No deployment was evaluated'}.",
        note=_undrawn(group, column),
    )
    return spread(chart)


def _undrawn(group: Sequence[Deployment], column: str) -> str:
    """Which deployments a panel cannot show, and why."""
    goal = GOALS[column]
    missing: dict[str, list[int]] = defaultdict(list)
    for deployment in group:
        if deployment.worst(column) is None:
            missing[deployment.why_not(goal)].append(deployment.number)
        elif deployment.accuracy is None:
            missing["no accuracy"].append(deployment.number)
    parts = [f"{numbers(where)} ({why})" for why, where in missing.items()]
    return f"Not evaluated, so not drawn: {', '.join(parts)}." if parts else ""


def front(drawn: Sequence[tuple[Deployment, Worst]]) -> list[tuple[float, float]]:
    """Accuracy and leakage of the usable deployments that no other one beats in both, by rising accuracy.

    What rests on a weak attack does not count: its true leakage may be higher.
    """
    sound = [(d.accuracy, w.value) for d, w in drawn if d.usable and w.supported and d.accuracy is not None]
    return sorted({sound[i] for i in pareto_front(sound, larger_is_better=[True, False])})


def _kind(deployment: Deployment) -> str:
    """The defense without its settings."""
    parts = [plugin.name for plugin in deployment.cell.defense] or ["none"]
    frozen = ", head frozen" if deployment.cell.training.get("head") == "frozen" else ""
    return " + ".join(parts) + frozen


def _mark(deployment: Deployment, worst: Worst) -> Mark:
    accuracy = deployment.accuracy
    assert accuracy is not None  # only what has one is drawn
    return Mark(
        x=accuracy,
        y=min(max(worst.value, 0.0), 1.0),
        label=f"{deployment.number}" + ("" if worst.supported else "*"),
        hover=tuple(_hover(deployment, worst)),
        x_low=deployment.number_of("accuracy_low"),
        x_high=deployment.number_of("accuracy_high"),
        y_low=worst.low,
        y_high=worst.high,
    )


def _hover(d: Deployment, worst: Worst) -> list[str]:
    """Everything about one deployment, a line each."""
    row = d.number_of
    reid, epsilon = d.worst("worst_reid"), d.guarantee()
    lines = [
        f"#{d.number}  {d.name}",
        f"leakage {decimal(worst.value)} {bracket(worst.low, worst.high)} by {worst.attack}, {victims_of(worst.phase)}",
        f"accuracy {percent(d.accuracy)} {bracket(row('accuracy_low'), row('accuracy_high'), percent=True)}, "
        f"{points(row('accuracy_drop'))} points below undefended",
        f"intervals {d.row.get('interval') or MISSING}; adversary {d.cell.profile}",
        f"re-identified {percent(reid.value if reid else None)}",
        f"client {scaled(row('client_params'))} parameters, {scaled(row('client_flops'))} FLOPs; "
        f"up {scaled(row('bytes_up'), 'B')}, down {scaled(row('bytes_down'), 'B')}",
        f"guarantee: {', '.join(part for part in epsilon if part) if epsilon[0] != MISSING else 'none stated'}",
    ]
    if d.usable is False:
        lines.append("unusable: accuracy below chance + 5 points")
    if not worst.supported:
        lines.append("weak attack: a lower bound, no claim of privacy")
    return lines


def _accuracy_axis(drawn: Sequence[Deployment]) -> Axis:
    """Room for every mark; and for the intervals, unless they dwarf the marks."""
    values = [d.accuracy for d in drawn if d.accuracy is not None] or [0.0, 1.0]
    reach = max(0.3 * (max(values) - min(values)), 0.05)
    ends = [v for d in drawn for c in ("accuracy_low", "accuracy_high") if (v := d.number_of(c)) is not None]
    low = max(min([*values, *ends]), min(values) - reach) - 0.01
    high = min(max([*values, *ends]), max(values) + reach) + 0.01
    return Axis("test accuracy (higher is better)", max(low, 0.0), min(high, 1.0), True)


def _steps(points_on_it: Sequence[tuple[float, float]], x: Axis) -> tuple[Mark, ...]:
    """The least leakage that is to be had at each accuracy, as the corners of a line.

    From the left edge to the first point at its leakage; from each point straight up to the leakage of the next.
    """
    corners: list[Mark] = []
    left = x.low
    for accuracy, leakage in points_on_it:
        y = min(max(leakage, 0.0), 1.0)
        corners += [Mark(left, y), Mark(accuracy, y)]
        left = accuracy
    return tuple(corners)

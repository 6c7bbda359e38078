# SPDX-License-Identifier: Apache-2.0
"""Leakage against accuracy, one panel for inputs and one for labels, with the front of what nothing else beats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from splitguard.metrics.stats import pareto_front
from splitguard.reports.chart import NEUTRAL, SYMBOLS, Axis, Chart, Mark, Series, colours
from splitguard.reports.facts import Deployment, Worst, deployments
from splitguard.reports.live import figure
from splitguard.reports.words import MISSING, bracket, decimal, epsilon_words, percent, points, scaled, victims_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from splitguard.matrix import Results

__all__ = ["PANELS", "defense_colours", "front", "mode_symbols", "plot_tradeoff", "tradeoff"]

#: Name of the panel, the column it shows, and what the column is about. Inputs and labels are never merged.
PANELS = (("inputs", "worst_input", "Inputs"), ("labels", "worst_label", "Labels"))
#: Leakage is drawn in 0..1; a little room keeps marks at the ends whole.
LEAKAGE = (-0.03, 1.03)
FRONT = "Pareto front"


def plot_tradeoff(results: Results) -> Figure:
    """Worst leakage against test accuracy as a Plotly figure: inputs to the left, labels to the right.

    One mark a deployment: the colour is the defense, the shape the mode, outlined what is unusable. What was not
    evaluated is not drawn. The dashed line is the Pareto front of the usable deployments; intervals are those of
    summary.csv.
    """
    return figure(*(tradeoff(deployments(results), *panel) for panel in PANELS))


def tradeoff(all_of_them: Sequence[Deployment], name: str, column: str, title: str) -> Chart:
    """One panel, from all deployments, so that colours are the same in every panel."""
    paint, shapes = defense_colours(all_of_them), mode_symbols(all_of_them)
    drawn = [(d, w) for d in all_of_them if d.accuracy is not None and (w := d.worst(column)) is not None]
    groups: dict[tuple[str, str, bool], list[Mark]] = defaultdict(list)
    for deployment, worst in drawn:
        look = (_family(deployment, paint), deployment.mode, deployment.usable is False)
        groups[look].append(_mark(deployment, worst))
    series = [
        Series(
            name=f"{defense}, {mode}" + (" (unusable)" if unusable else ""),
            marks=tuple(marks),
            colour=paint[defense],
            symbol=shapes[mode],
            hollow=unusable,
        )
        for (defense, mode, unusable), marks in groups.items()
    ]
    x = _accuracy_axis([d for d, _ in drawn])
    steps = _steps(front(drawn), x)
    line = [Series(FRONT, steps, colour=NEUTRAL, symbol=None, line="dash")] if steps else []
    said = "; ".join(f"{d.number}: {decimal(w.value)} at {percent(d.accuracy)}" for d, w in drawn)
    return Chart(
        name=name,
        title=f"{title}: worst leakage against accuracy",
        x=x,
        y=Axis("worst leakage (lower is better)", *LEAKAGE),
        series=(*line, *series),
        alt=f"{title}: worst leakage at test accuracy, by deployment number. {said or 'No deployment was evaluated'}.",
    )


def front(drawn: Sequence[tuple[Deployment, Worst]]) -> list[tuple[float, float]]:
    """Accuracy and leakage of the usable deployments that no other one beats in both, by rising accuracy.

    What rests on a weak attack does not count: its true leakage may be higher.
    """
    sound = [(d.accuracy, w.value) for d, w in drawn if d.usable and w.supported and d.accuracy is not None]
    return sorted({sound[i] for i in pareto_front(sound, larger_is_better=[True, False])})


def defense_colours(all_of_them: Sequence[Deployment]) -> dict[str, str]:
    """A colour for each defense with its settings; for each kind of defense, where they are too many."""
    full = list(dict.fromkeys(d.defense for d in all_of_them))
    names = full if len(full) <= 10 else list(dict.fromkeys(map(_kind, all_of_them)))
    return {str(k): v for k, v in colours(names, neutral=["none"]).items()}


def mode_symbols(all_of_them: Sequence[Deployment]) -> dict[str, str]:
    """A shape for each mode; the shapes start again where there are more."""
    modes = list(dict.fromkeys(d.mode for d in all_of_them))
    return {mode: SYMBOLS[i % len(SYMBOLS)] for i, mode in enumerate(modes)}


def _family(deployment: Deployment, paint: dict[str, str]) -> str:
    return deployment.defense if deployment.defense in paint else _kind(deployment)


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
    reid, epsilon = d.worst("worst_reid"), epsilon_words(row("epsilon"), row("epsilon_rows"), row("epsilon_query"))
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
    """Room for every mark and interval, and a margin of a twelfth."""
    columns = ("accuracy", "accuracy_low", "accuracy_high")
    values = [v for d in drawn for c in columns if (v := d.number_of(c)) is not None] or [0.0, 1.0]
    margin = max((max(values) - min(values)) / 12, 0.01)
    return Axis("test accuracy (higher is better)", max(min(values) - margin, 0), min(max(values) + margin, 1), True)


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

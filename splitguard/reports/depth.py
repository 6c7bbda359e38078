# SPDX-License-Identifier: Apache-2.0
"""How much each attack gets out of the undefended network at each cut, from the first layer to the last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from splitguard.api import Goal
from splitguard.matrix import Record
from splitguard.metrics.stats import t_interval
from splitguard.reports.chart import Axis, Chart, Mark, Series, colours
from splitguard.reports.facts import Deployment, weak
from splitguard.reports.gather import SEPARATOR, UNDEFENDED, deployments
from splitguard.reports.live import figure
from splitguard.reports.words import bracket, decimal, plural, scaled, victims_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from splitguard.matrix import Results

__all__ = ["depth_charts", "plot_depth"]

GOALS = ((Goal.INPUTS, "Inputs"), (Goal.LABELS, "Labels"))
LEAKAGE = (-0.03, 1.03)


def plot_depth(results: Results) -> Figure:
    """Leakage of the undefended network by cut, one line an attack, as a Plotly figure; client FLOPs on hover.

    One panel for each goal and mode that has two cuts or more. Member victims are solid marks, query victims outlined.
    """
    return figure(*depth_charts(deployments(results)))


def depth_charts(all_of_them: Sequence[Deployment]) -> list[Chart]:
    """A chart for each goal and each setting in which the undefended network was cut at several places."""
    groups: dict[str, list[Deployment]] = defaultdict(list)
    for deployment in all_of_them:
        if deployment.split and not deployment.defended:
            groups[_setting(deployment)].append(deployment)
    paint = colours(
        d.attack_of(r) for d in all_of_them for r in d.finished() if r.cell.goal in (Goal.INPUTS, Goal.LABELS)
    )
    charts: list[Chart] = []
    for goal, title in GOALS:
        for setting, found in groups.items():
            cuts = sorted(found, key=lambda d: (d.number_of("client_flops") or 0, d.number))
            chart = _chart(goal, f"{title}: {setting}", cuts, f"depth{len(charts)}", paint) if len(cuts) > 1 else None
            charts += [chart] if chart is not None else []
    return charts


def _setting(deployment: Deployment) -> str:
    """Its name without the cut."""
    parts = [part for part in deployment.name.split(SEPARATOR) if part not in (deployment.cut, UNDEFENDED)]
    return SEPARATOR.join(parts)


def _chart(goal: Goal, title: str, cuts: Sequence[Deployment], name: str, paint: Mapping[str, str]) -> Chart | None:
    marks: dict[tuple[str, str], dict[int, Mark]] = defaultdict(dict)
    for position, deployment in enumerate(cuts):
        for look, records in _by_attack(deployment, goal):
            mark = _mark(position, deployment, records)
            if mark is not None:
                marks[look][position] = mark
    if not any(marks.values()):
        return None
    series = [
        Series(
            name=attack if phase == "training" else f"{attack}, {victims_of(phase)}",
            marks=run,
            colour=paint[attack],
            symbol="circle" if phase == "training" else "square",
            hollow=phase != "training",
            line="solid" if phase == "training" else "dash",
        )
        for (attack, phase), found in marks.items()
        for run in _runs(found)
    ]
    said = "; ".join(
        f"{s.name}: " + ", ".join(f"{decimal(m.y)} at {cuts[int(m.x)].cut}" for m in s.marks) for s in series
    )
    names = tuple(f"{d.cut}\n{scaled(d.number_of('client_flops'))} FLOPs" for d in cuts)
    return Chart(
        name=name,
        title=title,
        x=Axis("cut, and FLOPs of the client for one row", -0.4, len(cuts) - 0.6, categories=names),
        y=Axis("leakage (lower is better)", *LEAKAGE),
        series=tuple(series),
        alt=f"{title}. Leakage by cut. {said}.",
    )


def _by_attack(deployment: Deployment, goal: Goal) -> Iterator[tuple[tuple[str, str], list[Record]]]:
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in deployment.finished(goal):
        groups[deployment.attack_of(record), record.phase].append(record)
    yield from groups.items()


def _mark(position: int, deployment: Deployment, records: Sequence[Record]) -> Mark | None:
    """The mean over seeds; None where no seed has a value."""
    values = [float(v) for r in records if (v := r.values.get("leakage")) is not None]
    if not values:
        return None
    mean, interval = sum(values) / len(values), t_interval(values)
    low, high = (interval.low, interval.high) if interval else _over_victims(records)
    over = plural(len(values), "seed") if interval else "victims, 1 seed"
    first = records[0]
    lines = [
        f"{deployment.attack_of(first)}, {victims_of(first.phase)}",
        f"cut {deployment.cut}: leakage {decimal(mean)} {bracket(low, high)} over {over}",
        f"client {scaled(deployment.number_of('client_params'))} parameters, "
        f"{scaled(deployment.number_of('client_flops'))} FLOPs a row",
    ]
    if any(map(weak, records)):
        lines.append("weak attack: a lower bound")
    return Mark(float(position), min(max(mean, 0.0), 1.0), hover=tuple(lines), y_low=low, y_high=high)


def _over_victims(records: Sequence[Record]) -> tuple[float | None, float | None]:
    low, high = (records[0].values.get(f"leakage_{end}") for end in ("low", "high"))
    return (float(low), float(high)) if low is not None and high is not None else (None, None)


def _runs(found: dict[int, Mark]) -> Iterator[tuple[Mark, ...]]:
    """Marks of neighbouring cuts, so that no line bridges a cut that was not evaluated."""
    run: list[Mark] = []
    for position in sorted(found):
        if run and position != run[-1].x + 1:
            yield tuple(run)
            run = []
        run.append(found[position])
    if run:
        yield tuple(run)

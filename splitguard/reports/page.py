# SPDX-License-Identifier: Apache-2.0
"""One HTML file that holds everything, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitguard.reports.alarms import noticed
from splitguard.reports.answer import answer
from splitguard.reports.beyond import Panel, beyond, heading
from splitguard.reports.candidates import Match, matches
from splitguard.reports.chart import NEUTRAL, Chart, Series
from splitguard.reports.depth import depth_charts
from splitguard.reports.facts import Deployment
from splitguard.reports.gaps import gaps
from splitguard.reports.gather import comparable, deployments
from splitguard.reports.live import figure
from splitguard.reports.overview import overview
from splitguard.reports.pictures import affordable, strips
from splitguard.reports.plots import FRONT, Look, tradeoffs
from splitguard.reports.still import gauge, svg, swatch
from splitguard.reports.tables import COLUMNS
from splitguard.reports.unbiased import unbiased
from splitguard.reports.words import bracket, decimal, numbers, percent, plural, victims_of

if TYPE_CHECKING:
    from splitguard.matrix import Results

__all__ = ["render", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: Path) -> list[Path]:
    """Writes report.html, results.csv and summary.csv into a run folder, from what lies there.

    Raises:
        DataUnavailable: if it holds no run.
    """
    from splitguard.matrix import load

    results = load(folder)
    page = folder / "report.html"
    part = folder / "report.html.part"
    part.write_text(render(results), encoding="utf-8")
    part.replace(page)
    return [page, *results.write_csv()]


def render(results: Results) -> str:
    """The whole page; everything that a user named is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    everyone = deployments(results)
    said = {dataset: answer(group) for dataset, group in comparable(everyone).items()}
    run = overview(results, everyone)
    look, shown = Look.of(everyone), affordable(results, everyone)
    panels, depth, others = tradeoffs(everyone, look), depth_charts(everyone), beyond(everyone)
    file = str(results.matrix.get("file") or "matrix.yaml")
    scripts = [_plotly()] if any(chart.series for chart in (*panels, *depth)) else []
    scripts.append((TEMPLATES / "page.js").read_text(encoding="utf-8"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        title=results.title or "What leaks, and what protection costs",
        demonstration=results.demonstration,
        folder=results.folder.name,
        file=file,
        quoted_folder=shlex.quote(results.folder.name),
        quoted_file=shlex.quote(file),
        run=run,
        answers=list(said.items()),
        deployments=everyone,
        columns=COLUMNS,
        tradeoff=[_panel(chart) for chart in panels],
        depth=[_panel(chart) for chart in depth],
        phases=any(series.hollow for chart in depth for series in chart.series),
        legend=_legend(everyone, look, depth),
        front=any(series.name == FRONT for chart in panels for series in chart.series),
        hollow=any(series.hollow for chart in panels for series in chart.series),
        starred=any(mark.label.endswith("*") for chart in panels for s in chart.series for mark in s.marks),
        intervals=_intervals(everyone),
        shown=shown,
        galleries=_galleries(results, everyone, shown, [a.best for a in said.values() if a.best is not None]),
        matches=_matched(everyone),
        alarms=noticed(everyone),
        unbiased=unbiased(everyone),
        goals=_goals(others),
        goals_heading=heading(others),
        guarantees=_guarantees(everyone),
        unguaranteed=numbers(d.number for d in everyone if not d.sentences()),
        gaps=gaps(everyone),
    )


def _panel(chart: Chart) -> dict[str, Any]:
    """One chart for the template: as SVG, and as what Plotly draws."""
    from markupsafe import Markup

    return {
        "name": chart.name,
        "title": chart.title,
        "note": chart.note,
        "empty": not chart.series,
        "still": Markup(svg(chart)),
        "figure": json.loads(figure(chart, legend=False).to_json()),
    }


def _legend(everyone: Sequence[Deployment], look: Look, depth: Sequence[Chart]) -> Mapping[str, Any]:
    """Names and samples of what is drawn."""
    drawn = [d for d in everyone if d.accuracy is not None and (d.worst("worst_input") or d.worst("worst_label"))]
    defenses, modes = {look.defense(d) for d in drawn}, {d.mode for d in drawn}
    attacks: dict[str, str] = {}
    for chart in depth:
        for series in chart.series:
            if not series.hollow:
                attacks.setdefault(series.name, swatch(Series("", (), series.colour, "circle", line="solid")))
    return _marked({
        "defenses": [(n, swatch(Series("", (), c, "circle"))) for n, c in look.paint.items() if n in defenses],
        "modes": [(n, swatch(Series("", (), NEUTRAL, s))) for n, s in look.shapes.items() if n in modes],
        "hollow": swatch(Series("", (), NEUTRAL, "circle", hollow=True)),
        "front": swatch(Series("", (), NEUTRAL, None, line="dash")),
        "attacks": list(attacks.items()),
    })  # fmt: skip


def _marked(legend: Mapping[str, Any]) -> dict[str, Any]:
    """The same with swatches that the template does not escape; names stay as they are."""
    from markupsafe import Markup

    return {
        key: Markup(value) if isinstance(value, str) else [(name, Markup(mark)) for name, mark in value]
        for key, value in legend.items()
    }


def _intervals(everyone: Sequence[Deployment]) -> str:
    """Which kind of interval the charts show."""
    seeds = sorted({len({r.cell.seed for r in d.records if r.status == "ok"}) for d in everyone} - {0})
    several = [count for count in seeds if count > 1]
    one = "bootstrap over its victims, Clopper-Pearson over test rows for accuracy"
    if not several:
        return f"Bars are 95 % intervals of one seed: {one}. They say nothing about other seeds."
    counts = " or ".join(map(str, several))
    wide = " With so few seeds they are wide." if several[0] <= 3 else ""
    said = f"Bars are 95 % intervals over {counts} seeds (Student t).{wide}"
    return said if 1 not in seeds else f"{said} Where one seed was run they are of that: {one}."


def _galleries(
    results: Results, everyone: Sequence[Deployment], victims: int, best: Sequence[Deployment]
) -> list[dict[str, Any]]:
    """Strips for each deployment; the recommended one and its undefended twin are unfolded, or else the first."""
    unfolded = {key for one in best for key in (one.key, one.twin)}
    out: list[dict[str, Any]] = []
    for deployment in everyone:
        found = list(strips(results, deployment, victims))
        worst = deployment.worst("worst_input")
        out.append(
            {
                "deployment": deployment,
                "strips": found,
                "said": f"worst leakage {decimal(worst.value)} by {worst.attack}" if worst else "inputs not evaluated",
                "why": deployment.why_not("inputs") if not worst else "no pictures were kept",
                "open": deployment.key in unfolded,
            }
        )
    if not any(item["open"] for item in out):
        for item in [i for i in out if i["strips"]][:1]:
            item["open"] = True
    return out


def _matched(everyone: Sequence[Deployment]) -> list[tuple[bool, list[dict[str, Any]]]]:
    """Rows of the table of candidates: those with a bound, and those without; neither if it is empty."""
    rows: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for match in matches(everyone):
        rows[match.bound is not None].append(_row(match))
    return [(bounded, found) for bounded, found in rows.items() if found]


def _row(match: Match) -> dict[str, Any]:
    from markupsafe import Markup

    low, high = match.interval.low, match.interval.high
    return {
        "match": match,
        "whom": f"{victims_of(match.phase)}, {plural(match.seeds, 'seed')}",
        "share": percent(match.share),
        "interval": bracket(low, high, percent=True),
        "bound": percent(match.bound),
        "chance": percent(match.chance),
        "gauge": Markup(gauge(match.share, low, high, chance=match.chance, bound=match.bound)),
    }


def _goals(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Panels of the goals beyond inputs and labels, with gauges that the template does not escape."""
    from markupsafe import Markup

    return [
        {"panel": panel, "rows": [{"finding": found, "gauge": Markup(found.gauge)} for found in panel.findings]}
        for panel in panels
    ]


def _guarantees(everyone: Sequence[Deployment]) -> list[tuple[str, str]]:
    """Each sentence once, and the deployments it holds for."""
    groups: dict[str, list[int]] = {}
    for deployment in everyone:
        for sentence in deployment.sentences():
            groups.setdefault(sentence, []).append(deployment.number)
    return [(sentence, numbers(where)) for sentence, where in groups.items()]


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy under which nothing is loaded, and only these scripts run."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )

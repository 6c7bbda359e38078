# SPDX-License-Identifier: Apache-2.0
"""One HTML file that holds everything, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitguard.reports.answer import Answer, answer
from splitguard.reports.candidates import Match, matches
from splitguard.reports.chart import NEUTRAL, Chart, Series
from splitguard.reports.depth import depth_charts
from splitguard.reports.facts import Deployment, deployments
from splitguard.reports.gaps import gaps
from splitguard.reports.live import figure
from splitguard.reports.overview import overview
from splitguard.reports.pictures import SHOWN, strips
from splitguard.reports.plots import PANELS, defense_colours, mode_symbols, tradeoff
from splitguard.reports.still import gauge, svg, swatch
from splitguard.reports.tables import COLUMNS
from splitguard.reports.words import bracket, decimal, numbers, percent, plural, victims_of

if TYPE_CHECKING:
    from markupsafe import Markup

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
    said = answer(everyone)
    run = overview(results, everyone)
    panels = [(tradeoff(everyone, *panel), _undrawn(everyone, panel[1])) for panel in PANELS]
    depth = [(chart, "") for chart in depth_charts(everyone)]
    shown = [_panel(chart, note) for chart, note in (*panels, *depth)]
    drawn = any(chart.series for chart, _ in (*panels, *depth))
    scripts = [_plotly()] if drawn else []
    scripts.append((TEMPLATES / "page.js").read_text(encoding="utf-8"))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        policy=_policy(scripts),
        scripts=[Markup(script) for script in scripts],
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        version=_version(),
        title=results.title or "What leaks, and what protection costs",
        demonstration=results.demonstration,
        folder=results.folder.name,
        file=results.matrix.get("file") or "matrix.yaml",
        run=run,
        answer=said,
        deployments=everyone,
        columns=COLUMNS,
        charts=shown,
        tradeoff=shown[: len(panels)],
        depth=shown[len(panels) :],
        phases=any(series.hollow for chart, _ in depth for series in chart.series),
        legend=_legend(everyone, [chart for chart, _ in depth]),
        starred=any(mark.label.endswith("*") for chart, _ in panels for s in chart.series for mark in s.marks),
        intervals=_intervals(everyone),
        shown=SHOWN,
        galleries=_galleries(results, everyone, said),
        matches=[_matched(match) for match in matches(everyone)],
        guarantees=_guarantees(everyone),
        unguaranteed=numbers(d.number for d in everyone if not d.sentences()),
        gaps=gaps(everyone),
    )


def _panel(chart: Chart, note: str) -> dict[str, Any]:
    """One chart for the template: as SVG, and as what Plotly draws."""
    from markupsafe import Markup

    return {
        "name": chart.name,
        "title": chart.title,
        "note": note,
        "still": Markup(svg(chart)),
        "figure": json.loads(figure(chart, legend=False).to_json()),
    }


def _undrawn(everyone: Sequence[Deployment], column: str) -> str:
    """Which deployments a panel cannot show."""
    goal = {"worst_input": "inputs", "worst_label": "labels"}[column]
    groups: dict[str, list[int]] = {}
    for deployment in everyone:
        if deployment.worst(column) is None:
            groups.setdefault(deployment.why_not(goal), []).append(deployment.number)
        elif deployment.accuracy is None:
            groups.setdefault("no accuracy", []).append(deployment.number)
    parts = [f"{numbers(where)} ({why})" for why, where in groups.items()]
    return f"Not evaluated, so not drawn: {', '.join(parts)}." if parts else ""


def _legend(everyone: Sequence[Deployment], depth: Sequence[Chart]) -> Mapping[str, Any]:
    attacks: dict[str, str] = {}
    for chart in depth:
        for series in chart.series:
            if not series.hollow:
                attacks.setdefault(series.name, swatch(Series("", (), series.colour, "circle", line="solid")))
    return _marked({
        "defenses": [(n, swatch(Series("", (), c, "circle"))) for n, c in defense_colours(everyone).items()],
        "modes": [(n, swatch(Series("", (), NEUTRAL, s))) for n, s in mode_symbols(everyone).items()],
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
    seeds = {int(d.row["seeds"]) for d in everyone if d.row.get("seeds")}
    if seeds and max(seeds) > 1:
        wide = " With so few seeds they are wide." if min(seeds) <= 3 else ""
        return f"Bars are 95 % intervals over {plural(max(seeds), 'seed')} (Student t).{wide}"
    return (
        "Bars are 95 % intervals of one seed: bootstrap over its victims, Clopper-Pearson over test rows for accuracy. They say "
        "nothing about other seeds."
    )


def _galleries(results: Results, everyone: Sequence[Deployment], said: Answer) -> list[dict[str, Any]]:
    """Strips for each deployment; the recommended one and its undefended twin are unfolded, or else the first."""
    out: list[dict[str, Any]] = []
    for deployment in everyone:
        found = list(strips(results, deployment))
        worst = deployment.worst("worst_input")
        out.append(
            {
                "deployment": deployment,
                "strips": found,
                "said": f"worst leakage {decimal(worst.value)} by {worst.attack}" if worst else "inputs not evaluated",
                "why": deployment.why_not("inputs") if not worst else "no pictures were kept",
                "open": said.best is not None and deployment.key in (said.best.key, said.best.twin),
            }
        )
    if not any(item["open"] for item in out):
        for item in [i for i in out if i["strips"]][:1]:
            item["open"] = True
    return out


def _matched(match: Match) -> dict[str, Any]:
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


def _version() -> str:
    import splitguard

    return splitguard.__version__

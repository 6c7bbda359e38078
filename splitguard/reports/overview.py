# SPDX-License-Identifier: Apache-2.0
"""What was run, against whom, with which code: the facts around the numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitguard.api import ATTACKS, Profile
from splitguard.matrix import Cell, Plugin
from splitguard.matrix.record import described
from splitguard.reports.facts import Deployment
from splitguard.reports.words import MISSING, count, joined, plural

if TYPE_CHECKING:
    from splitguard.matrix import Results

__all__ = ["AttackRow", "Overview", "overview"]

KNOWS = {
    Profile.BLACK_BOX: "has samples of its own from the same kind of data and a few labelled rows",
    Profile.ARCHITECTURE: "knows the architecture of the clients' layers",
    Profile.QUERY: "can send queries through them",
    Profile.HEAD_KNOWN: "knows their weights (from a colluding client, a leaked app, or the fed server, which is taken "
    "to collude with the server)",
    Profile.ACTIVE: "may deviate from the protocol",
}
LABELS = {"dirty": "changed since that commit"}
PARTS = {"train": "training", "test": "test", "aux": "auxiliary"}
VERSIONS = ("splitguard", "commit", "dirty")


@dataclass(frozen=True)
class AttackRow:
    """One attack of the matrix: its settings in full, who mounts it, the least profile it needs, and its source."""

    name: str
    goal: str
    adversary: str
    profile: str
    settings: str
    paper: str


@dataclass(frozen=True)
class Overview:
    """The facts of a run.

    Attributes:
        subtitle: data, model and size in a line.
        facts: a term and its description, each.
        adversaries: each profile that the matrix considers, and what it knows.
        attacks: each once.
        versions: of the code and its packages.
        others: how many records were made with other versions, and with which.
        source: the matrix file, if the run kept it.
        resolved: all settings that the cells came from, as YAML.
    """

    subtitle: str
    facts: tuple[tuple[str, str], ...]
    adversaries: tuple[tuple[str, str], ...]
    attacks: tuple[AttackRow, ...]
    versions: tuple[tuple[str, str], ...]
    others: tuple[str, ...]
    source: str | None
    resolved: str


def overview(results: Results, everyone: Sequence[Deployment]) -> Overview:
    """The facts of a run folder."""
    cells = [Cell.from_json(value) for value in results.matrix["cells"]]
    around = results.matrix.get("environment") or {}
    source = results.matrix.get("source")
    return Overview(
        subtitle=_subtitle(cells, everyone),
        facts=tuple(_facts(results, cells, everyone)),
        adversaries=tuple(_adversaries(cells)),
        attacks=tuple(_attacks(cells)),
        versions=tuple((LABELS.get(name, name), _said(value)) for name, value in around.items() if value is not None),
        others=tuple(_others(results, around)),
        source=source if isinstance(source, str) else None,
        resolved=_resolved(cells),
    )


def _subtitle(cells: Sequence[Cell], everyone: Sequence[Deployment]) -> str:
    shown = [described(cell) for cell in cells]
    names = [joined(_unique(str(row[name]) for row in shown)) for name in ("dataset", "model")]
    attacks = len({str(cell.attack.identity()) for cell in cells})
    return (
        f"{', '.join(names)}: {plural(len(everyone), 'deployment')}, {plural(attacks, 'attack')}, "
        f"{plural(len({cell.seed for cell in cells}), 'seed')}"
    )


def _facts(results: Results, cells: Sequence[Cell], everyone: Sequence[Deployment]) -> list[tuple[str, str]]:
    statuses = Counter(record.status for record in results.records)
    weak = sum(record.values.get("weak") is True for record in results.records)
    ran = ", ".join(f"{count(n)} {status}" for status, n in sorted(statuses.items())) or "none"
    ran += f"; {count(weak)} of the finished ones weak" if weak else ""
    ran += f"; {count(len(results.missing))} not run yet" if results.missing else ""
    return [
        ("Data", "; ".join(_unique(map(_data, cells)))),
        ("Model", "; ".join(_unique(_model(cell.model) for cell in cells))),
        ("Modes", "; ".join(_unique(d.mode for d in everyone))),
        ("Cuts", ", ".join(_unique(d.cut for d in everyone if d.cut)) or "none"),
        ("Defenses", "; ".join(_unique(d.defense for d in everyone))),
        ("Training", _training(cells)),
        ("Seeds", joined([str(s) for s in sorted({cell.seed for cell in cells})])),
        ("Records", f"{ran} (one record: one attack on one deployment, one seed, member or query victims)"),
    ]


def _data(cell: Cell) -> str:
    data, shown = cell.data, described(cell)
    sizes = ", ".join(f"{count(data[part])} {what}" for part, what in PARTS.items() if data.get(part) is not None)
    if data.get("aux_classes") is not None:
        sizes += f" (of classes {', '.join(map(str, data['aux_classes']))})"
    whom = " and ".join(f"{count(n)} {kind}" for kind, n in (data.get("victims") or {}).items())
    return (
        f"{shown['dataset']}: {sizes} rows; {whom} victims; {plural(cell.data['clients'], 'client')}, "
        f"partition {shown['partition']}; digest {data.get('digest', MISSING)}"
    )


def _model(model: Mapping[str, Any]) -> str:
    name = str(model.get("name") or model.get("factory"))
    rest = {k: v for k, v in model.items() if k not in ("name", "factory") and v not in (None, {}, ())}
    return f"{name} ({_settings(rest)})" if rest else name


def _training(cells: Sequence[Cell]) -> str:
    """Each setting with all the values that occur; those that change no number, and those not given, are left out."""
    names = [
        name for name in cells[0].training if name not in ("device", "checkpoint_every", "context_epoch", "evaluate")
    ]
    values = {name: _unique(_said(cell.training.get(name)) for cell in cells) for name in names}
    return ", ".join(f"{name} {joined(said, last='or')}" for name, said in values.items() if said != [MISSING])


def _adversaries(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    out = []
    for text, adaptive in _unique((cell.profile, cell.adaptive) for cell in cells):
        profile = Profile.parse(text)
        knows = joined([said for level, said in KNOWS.items() if level <= profile], last="and")
        aware = (
            "Attacks are adaptive: they know the defense and its settings, not its random draws."
            if adaptive
            else "Attacks are static: they ignore what they know of the defense, as much of the literature does; that "
            "is too weak for a sign-off."
        )
        out.append(
            (
                f"{text}{'' if adaptive else ', static'}",
                f"Beside what crosses the wire in its part of the protocol, it {knows}. {aware}",
            )
        )
    return out


def _attacks(cells: Sequence[Cell]) -> list[AttackRow]:
    rows: dict[str, tuple[Plugin, str, set[str], set[str]]] = {}
    for cell in cells:
        row = described(cell)
        _, _, who, least = rows.setdefault(str(cell.attack.identity()), (cell.attack, cell.goal, set(), set()))
        who |= {str(row["adversary"])} if row["adversary"] is not None else set()
        least |= {str(row["profile"])} if row["profile"] is not None else set()
    return [
        AttackRow(
            name=str(plugin),
            goal=goal,
            adversary=joined(sorted(who)) or MISSING,
            profile=joined(sorted(least), last="or") or MISSING,
            settings=_settings(plugin.settings),
            paper=str(getattr(ATTACKS.get(plugin.name), "paper", "")) if plugin.name in ATTACKS else "",
        )
        for plugin, goal, who, least in rows.values()
    ]


def _others(results: Results, around: Mapping[str, Any]) -> list[str]:
    """Records that were made with other code than the matrix was run with last."""
    kinds = Counter(
        ", ".join(f"{name} {_said(record.environment.get(name))}" for name in VERSIONS)
        for record in results.records
        if any(record.environment.get(name) != around.get(name) for name in VERSIONS)
    )
    return [f"{plural(n, 'record')} came from {kind}" for kind, n in kinds.items()]


def _resolved(cells: Sequence[Cell]) -> str:
    """Each axis with every setting that occurs."""
    import yaml

    def axis(of: Callable[[Cell], Any]) -> list[Any]:
        texts = _unique(json.dumps(of(cell), sort_keys=False, default=str) for cell in cells)
        return [json.loads(text) for text in texts]

    axes = {
        "data": axis(lambda c: c.data),
        "model": axis(lambda c: c.model),
        "mode": axis(lambda c: {c.mode: {"labels": c.labels}}),
        "cut": axis(lambda c: "..".join(c.base)),
        "defense": axis(lambda c: [d.spec for d in c.defense] or "none"),
        "attack": axis(lambda c: c.attack.spec),
        "profile": axis(lambda c: c.profile),
        "adaptive": axis(lambda c: c.adaptive),
        "train": axis(lambda c: c.training),
        "seeds": axis(lambda c: c.seed),
    }
    return str(yaml.safe_dump(axes, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110))


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={_said(v)}" for k, v in settings.items())


def _said(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "{" + _settings(value) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))

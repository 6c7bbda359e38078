# SPDX-License-Identifier: Apache-2.0
"""Makes the deployments of a run folder: gathers what belongs to each, numbers and names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from splitguard.api import Profile
from splitguard.matrix import Cell, Plugin, Record
from splitguard.matrix.record import described
from splitguard.reports.facts import Deployment

if TYPE_CHECKING:
    from splitguard.matrix import Results

__all__ = ["SEPARATOR", "UNDEFENDED", "comparable", "deployments", "short_names"]

#: What names a deployment where it differs between deployments, beside mode, cut and defense.
CONTEXT = ("dataset", "model", "clients", "partition")
#: What the attacker has of the data, likewise.
AUXILIARY = ("aux", "aux_classes")
SEPARATOR = " \N{MIDDLE DOT} "
UNDEFENDED = "undefended"


def deployments(results: Results) -> list[Deployment]:
    """All deployments of the matrix, in its order, those that have not been run included."""
    groups: dict[str, tuple[list[Record], list[tuple[Cell, str]]]] = {}
    cells: dict[str, Cell] = {}
    every = [Cell.from_json(value) for value in results.matrix["cells"]]
    for cell in every:
        cells.setdefault(cell.deployment_key(), cell)
        groups.setdefault(cell.deployment_key(), ([], []))
    for record in results.records:
        groups[record.cell.deployment_key()][0].append(record)
    for cell, phase in results.missing:
        groups[cell.deployment_key()][1].append((cell, phase))
    rows = {str(row["deployment"]): row for row in _plain(results)}
    names = _names(list(cells.values()))
    attacks = short_names(cell.attack for cell in every)
    return [
        Deployment(
            number=number,
            cell=cell,
            name=names[key],
            row=rows.get(key, {}),
            records=tuple(groups[key][0]),
            missing=tuple(groups[key][1]),
            twin=cell.twin().deployment_key(),
            attacks=attacks,
        )
        for number, (key, cell) in enumerate(cells.items(), start=1)
    ]


def comparable(everyone: Sequence[Deployment]) -> dict[str, list[Deployment]]:
    """Deployments that may be held against each other, by task: at the strongest adversary considered.

    Where a matrix asks for adaptive and for static attacks, those are the adaptive ones.
    """
    strongest = max((Profile.parse(d.cell.profile) for d in everyone), default=None)
    adaptive = any(d.cell.adaptive for d in everyone)
    out: dict[str, list[Deployment]] = {}
    for one in everyone:
        if Profile.parse(one.cell.profile) == strongest and one.cell.adaptive == adaptive:
            out.setdefault(_task(one.cell), []).append(one)
    return out


def _task(cell: Cell) -> str:
    """The data set, and that its classes are merged where they are: accuracies on two tasks do not compare."""
    name = str(cell.data["name"])
    return f"{name}, coarse labels" if cell.data.get("coarse") else name


def _training_differences(cells: Sequence[Cell]) -> list[str]:
    """Training settings that tell cells apart beside whether the head is frozen, which counts as a defense.

    What a frozen head is trained with, where all frozen heads are trained alike, belongs to it and needs no naming.
    """
    names = dict.fromkeys(name for cell in cells for name in cell.training if name != "head")
    found: dict[str, dict[str, set[str]]] = {name: {} for name in names}
    for name, by_head in found.items():
        for cell in cells:
            by_head.setdefault(str(cell.training.get("head")), set()).add(str(cell.training.get(name)))
    return [name for name, by_head in found.items() if any(len(values) > 1 for values in by_head.values())]


def _setting(name: str, value: Any) -> str:
    """A training setting in a name: ``epochs=5``; of a nested one its parts, ``sgd lr=0.02 momentum=0.9``."""
    if not isinstance(value, Mapping):
        return f"{name}={value}"
    head = [str(value["name"])] if "name" in value else [name]
    return " ".join([*head, *(f"{k}={v}" for k, v in value.items() if k != "name")])


def _auxiliary(name: str, value: Any) -> str:
    """How many auxiliary rows, or of which classes, in a name."""
    if name == "aux":
        return f"{value} auxiliary rows"
    return "auxiliary of all classes" if value is None else f"auxiliary of classes {', '.join(map(str, value))}"


def _plain(results: Results) -> Iterator[dict[str, Any]]:
    """The rows of the summary with None for what is missing."""
    import pandas as pd

    for row in results.summary.to_dict("records"):
        yield {str(k): None if pd.isna(v) else v for k, v in row.items()}


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """A name for each deployment key: mode, cut and defense, then what else differs."""
    shown = [described(cell) for cell in cells]
    differ = [name for name in CONTEXT if len({row[name] for row in shown}) > 1]
    sizes = [name for name in AUXILIARY if len({str(cell.data.get(name)) for cell in cells}) > 1]
    trained = _training_differences(cells)
    out = {}
    for cell, row in zip(cells, shown, strict=True):
        plain = Deployment(0, cell, "", {}, (), (), "")
        parts = [plain.mode, *([plain.cut] if plain.cut else []), plain.defense if plain.defended else UNDEFENDED]
        parts += [f"{row[name]} clients" if name == "clients" else str(row[name]) for name in differ]
        parts += [_auxiliary(name, cell.data.get(name)) for name in sizes]
        parts += [_setting(name, cell.training.get(name)) for name in trained]
        if len({other.profile for other in cells}) > 1:
            parts.append(f"against {cell.profile}")
        if len({other.adaptive for other in cells}) > 1:
            parts.append("adaptive attacks" if cell.adaptive else "static attacks")
        out[cell.deployment_key()] = SEPARATOR.join(parts)
    return out


def short_names(attacks: Iterable[Plugin]) -> dict[str, str]:
    """By its full name, each attack without its settings, unless two differ in nothing else."""
    full = {str(attack): attack.name for attack in attacks}
    names = list(full.values())
    return {told: name if names.count(name) == 1 else told for told, name in full.items()}

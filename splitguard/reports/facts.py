# SPDX-License-Identifier: Apache-2.0
"""The deployments of a run folder as the reports speak of them: numbered, named, with the worst of their attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitguard.api import Goal, Mode
from splitguard.matrix import Cell, Record
from splitguard.matrix.record import described

if TYPE_CHECKING:
    from splitguard.matrix import Results

__all__ = ["Deployment", "Worst", "deployments", "training_differences", "weak"]

#: What names a deployment where it differs between deployments, beside mode, cut and defense.
CONTEXT = ("dataset", "model", "clients", "partition")


@dataclass(frozen=True)
class Worst:
    """What the worst finished attack after one goal reaches.

    Attributes:
        value: leakage, or a rate of re-identification.
        low, high: its interval; None where there is none.
        attack: which one.
        phase: on which victims.
        seeds: how many stand behind the value.
        supported: False where the attack was weak, so that the value is a lower bound and no claim of privacy.
    """

    value: float
    low: float | None
    high: float | None
    attack: str
    phase: str
    seeds: int
    supported: bool


@dataclass(frozen=True, eq=False)
class Deployment:
    """One deployment.

    Attributes:
        number: from 1, in the order of the matrix; the same everywhere in a report.
        cell: any of its cells.
        name: mode, cut, defense, and whatever else differs between the deployments of this matrix.
        row: its row of summary.csv, missing values as None; empty if nothing of it has been run.
        records: all of them.
        missing: its cells and phases that have not been run.
        twin: the key of the same deployment without any defense.
    """

    number: int
    cell: Cell
    name: str
    row: Mapping[str, Any]
    records: tuple[Record, ...]
    missing: tuple[tuple[Cell, str], ...]
    twin: str

    @property
    def key(self) -> str:
        """Of the deployment."""
        return self.cell.deployment_key()

    @property
    def mode(self) -> str:
        """The mode, and who owns the labels where that is not the mode's default."""
        usual = {Mode.U_SHAPED: "client"}.get(Mode(self.cell.mode), "sent")
        return self.cell.mode if self.cell.labels == usual else f"{self.cell.mode}, labels at the {self.cell.labels}"

    @property
    def cut(self) -> str:
        """The cut that is used, as ``conv2..fc1``; empty for a network that is not split."""
        return "..".join(self.cell.cuts)

    @property
    def defense(self) -> str:
        """For people; ``none`` without one."""
        return self.cell.defended()

    @property
    def defended(self) -> bool:
        """Whether there is any defense, a frozen head included."""
        return self.defense != "none"

    @property
    def split(self) -> bool:
        """False for the centralized baseline, where nothing crosses."""
        return self.cell.mode != Mode.CENTRALIZED

    @property
    def accuracy(self) -> float | None:
        """Test accuracy, mean over seeds."""
        return self.number_of("accuracy")

    @property
    def usable(self) -> bool | None:
        """Whether it is above chance plus 5 points; None if that is not known."""
        value = self.row.get("usable")
        return None if value is None else bool(value)

    @property
    def honest(self) -> Record | None:
        """A record of the deployment as it was trained without an active attack; None if it was never trained."""
        return next((r for r in self.records if not r.cell.active and r.values.get("accuracy") is not None), None)

    def number_of(self, column: str) -> float | None:
        """A column of its row."""
        value = self.row.get(column)
        return None if value is None else float(value)

    def worst(self, name: str) -> Worst | None:
        """``worst_input``, ``worst_reid`` or ``worst_label``; None if it was not evaluated."""
        value = self.number_of(name)
        if value is None:
            return None
        attack, phase = str(self.row[f"{name}_attack"]), str(self.row[f"{name}_phase"])
        of_it = [r for r in self.finished() if str(r.cell.attack) == attack and r.phase == phase]
        return Worst(
            value=value,
            low=self.number_of(f"{name}_low"),
            high=self.number_of(f"{name}_high"),
            attack=attack,
            phase=phase,
            seeds=int(self.row[f"{name}_seeds"]),
            supported=not any(weak(r) for r in of_it),
        )

    def finished(self, goal: str | None = None) -> list[Record]:
        """Records that are ok, of one goal or of all."""
        return [r for r in self.records if r.status == "ok" and goal in (None, r.cell.goal)]

    def why_not(self, goal: str) -> str:
        """Why nothing is known about ``goal``, in a few words."""
        if not self.split:
            return "nothing crosses a cut"
        of_goal = [r for r in self.records if r.cell.goal == goal]
        reasons = [str(r.reason) for r in of_goal if r.status == "refused"]
        if reasons and len(reasons) == len(of_goal):
            return "labels are sent" if all("is given the labels" in text for text in reasons) else "refused"
        if any(r.status == "failed" for r in of_goal):
            return "failed"
        return "not run yet" if any(cell.goal == goal for cell, _ in self.missing) else "no attack"

    def sentences(self) -> list[str]:
        """Its guarantees in words, each once, over all seeds."""
        said = [str(s) for r in self.records if not r.cell.active for s in r.extra.get("guarantees", ())]
        return list(dict.fromkeys(said))


def weak(record: Record) -> bool:
    """Whether the attack lost to the truth in its own objective."""
    return record.values.get("weak") is True


def deployments(results: Results) -> list[Deployment]:
    """All deployments of the matrix, in its order, those that have not been run included."""
    groups: dict[str, tuple[list[Record], list[tuple[Cell, str]]]] = {}
    cells: dict[str, Cell] = {}
    for value in results.matrix["cells"]:
        cell = Cell.from_json(value)
        cells.setdefault(cell.deployment_key(), cell)
        groups.setdefault(cell.deployment_key(), ([], []))
    for record in results.records:
        groups[record.cell.deployment_key()][0].append(record)
    for cell, phase in results.missing:
        groups[cell.deployment_key()][1].append((cell, phase))
    rows = {str(row["deployment"]): row for row in _plain(results)}
    names = _names(list(cells.values()))
    return [
        Deployment(
            number=number,
            cell=cell,
            name=names[key],
            row=rows.get(key, {}),
            records=tuple(groups[key][0]),
            missing=tuple(groups[key][1]),
            twin=cell.twin().deployment_key(),
        )
        for number, (key, cell) in enumerate(cells.items(), start=1)
    ]


def training_differences(cells: Sequence[Cell]) -> list[str]:
    """Training settings that differ between cells, apart from whether the head is frozen, which counts as a defense."""
    names = dict.fromkeys(name for cell in cells for name in cell.training if name not in ("head", "pretrain_epochs"))
    return [name for name in names if len({str(cell.training.get(name)) for cell in cells}) > 1]


def _plain(results: Results) -> Iterator[dict[str, Any]]:
    """The rows of the summary with None for what is missing."""
    import pandas as pd

    for row in results.summary.to_dict("records"):
        yield {str(k): None if pd.isna(v) else v for k, v in row.items()}


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """A name for each deployment key: mode, cut and defense, then what else differs."""
    shown = [described(cell) for cell in cells]
    differ = [name for name in CONTEXT if len({row[name] for row in shown}) > 1]
    trained = training_differences(cells)
    out = {}
    for cell, row in zip(cells, shown, strict=True):
        plain = Deployment(0, cell, "", {}, (), (), "")
        parts = [plain.mode, *([f"cut {plain.cut}"] if plain.cut else []), "undefended" if not plain.defended else plain.defense]
        parts += [f"{row[name]} clients" if name == "clients" else str(row[name]) for name in differ]
        parts += [f"{name}={cell.training.get(name)}" for name in trained]
        if len({other.profile for other in cells}) > 1:
            parts.append(f"against {cell.profile}")
        if len({other.adaptive for other in cells}) > 1:
            parts.append("adaptive attacks" if cell.adaptive else "static attacks")
        out[cell.deployment_key()] = ", ".join(parts)
    return out

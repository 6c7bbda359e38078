# SPDX-License-Identifier: Apache-2.0
"""The result of one cell in one phase: done, failed or refused; every column that a table shows, and what made it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from splitguard.engine.goals import TRAINING_ONLY
from splitguard.engine.threat import Goal, Labels, Mode, Profile
from splitguard.matrix.cell import KEY_VERSION, Cell

__all__ = ["COLUMNS", "FORMAT", "SPENT", "TIMINGS", "Record", "Status", "Value", "phases"]

#: The columns of results.csv, in order; further metrics follow, sorted.
COLUMNS = (
    "key", "status", "reason", "dataset", "model", "mode", "labels", "clients", "partition", "cut", "defense",
    "epsilon", "epsilon_rows", "epsilon_query", "delta", "adjacency", "releases", "attack", "goal", "adversary",
    "profile", "adaptive", "active", "phase", "seed", "accuracy", "accuracy_drop", "ssim", "lpips", "psnr", "mse",
    "reid", "label_accuracy", "label_auc", "blind", "leakage", "leakage_low", "leakage_high", "leakage_p95",
    "recovered", "converged", "n", "steps", "queries", "aux", "known", "client_params", "client_flops", "bytes_up",
    "bytes_down", "train_seconds", "attack_seconds",
)  # fmt: skip
#: Columns that say what the attack spent: optimizer steps, queries, auxiliary rows, rows with known labels.
SPENT = ("steps", "queries", "aux", "known")
#: Columns that differ from run to run.
TIMINGS = ("train_seconds", "attack_seconds")
#: Of the JSON of a record.
FORMAT = 1

Value = float | int | str | bool | None
Status = Literal["ok", "failed", "refused"]


def phases(goal: str) -> tuple[str, ...]:
    """The victims an attack after ``goal`` is scored on; some goals are scored once a session."""
    return ("training",) if goal in TRAINING_ONLY else ("training", "query")


@dataclass(frozen=True)
class Record:
    """One row of results.csv.

    Attributes:
        cell: what was run.
        phase: ``training`` for member victims, ``query`` for query victims.
        status: ``refused`` means that it cannot be done or makes no sense there, ``failed`` that it broke.
        reason: for what is not ok, in a line.
        values: by column; missing is None, never zero.
        extra: what no column holds: a traceback, guarantees in words, the attack's tuned settings, its budget; where
            the attack took part in the training, ``honest``: values and extra of the same session without it.
        environment: versions, commit, device, threads.
    """

    cell: Cell
    phase: str
    status: Status
    reason: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Of its cell."""
        return self.cell.key()

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.key}-{self.phase}"

    def honest(self) -> Record | None:
        """The same with the columns of the session that has no active attack in it; None while that is not known."""
        if not self.cell.active:
            return self
        told = self.extra.get("honest")
        return None if told is None else replace(self, cell=self.cell.honest(), **told)

    @property
    def finished(self) -> bool:
        """Whether the next run leaves it alone."""
        return self.status != "failed"

    def row(self) -> dict[str, Value]:
        """All columns: what the cell says, then what was measured."""
        return {
            "key": self.key,
            "status": self.status,
            "reason": self.reason,
            **described(self.cell),
            "phase": self.phase,
            **{name: self.extra.get("budget", {}).get(name) for name in SPENT},
            **self.values,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become None."""
        return {
            "format": FORMAT,
            "key_version": KEY_VERSION,
            "key": self.key,
            "phase": self.phase,
            "status": self.status,
            "reason": self.reason,
            "values": {k: _finite(v) for k, v in self.values.items()},
            "extra": dict(self.extra),
            "environment": dict(self.environment),
            "cell": self.cell.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """The inverse of `to_json`.

        Raises:
            TypeError, KeyError, ValueError: if it is no record of this format whose key fits its cell.
        """
        if not isinstance(value, Mapping):
            raise TypeError(f"a record is a mapping; got {value!r}")
        if value["format"] != FORMAT or value["status"] not in get_args(Status):
            raise ValueError(f"format {value['format']}, status {value['status']!r}")
        for name in ("values", "extra", "environment", "cell"):
            if not isinstance(value[name], Mapping):
                raise TypeError(f"{name} of a record is a mapping; got {value[name]!r}")
        if not all(isinstance(v, Value) for v in value["values"].values()) or not isinstance(
            value["reason"], str | None
        ):
            raise TypeError("the values of a record are numbers, texts or null, and its reason is a text or null")
        out = cls(
            cell=Cell.from_json(value["cell"]),
            phase=value["phase"],
            status=value["status"],
            reason=value["reason"],
            values=value["values"],
            extra=value["extra"],
            environment=value["environment"],
        )
        try:
            key = out.key
        except AttributeError as error:  # a setting where a mapping of settings is wanted
            raise TypeError(f"its cell is damaged: {error}") from None
        if key != value["key"]:
            raise ValueError(f"the key {value['key']} does not fit the cell, whose key is {key}")
        return out


def described(cell: Cell) -> dict[str, Value]:
    """The columns that follow from the cell alone; ``profile`` is the least one that the attack needs there.

    A record that was attacked says, in its values, the least one that grants all that the attack read.

    Where no profile lets this attack be mounted, ``adversary`` and ``profile`` are missing.
    """
    from splitguard.api import ATTACKS
    from splitguard.matrix.refusals import mounted

    threat = getattr(ATTACKS.get(cell.attack.name), "threat", None) if cell.attack.name in ATTACKS else None
    adversary, least = None, None
    if threat is not None:
        adversary, least, _ = mounted(
            threat,
            Goal(cell.goal),
            mode=Mode(cell.mode),
            labels=Labels(cell.labels),
            profile=Profile.parse(cell.profile),
            defense=cell.defense,
        )
    partition = cell.data["partition"]
    return {
        "dataset": _dataset(cell.data),
        "model": model_name(cell.model),
        "mode": cell.mode,
        "labels": cell.labels,
        "clients": int(cell.data["clients"]),
        "partition": _named(partition),
        "cut": "..".join(cell.cuts) or None,
        "defense": cell.defended(),
        "attack": str(cell.attack),
        "goal": cell.goal,
        "adversary": None if adversary is None else str(adversary),
        "profile": None if least is None else str(least),
        "adaptive": cell.adaptive,
        "active": cell.active,
        "seed": cell.seed,
    }


def _dataset(data: Mapping[str, Any]) -> str:
    """The data set for people; trained on coarse labels, or met by another attacker, it is named apart."""
    coarse, other, known = data.get("coarse"), data.get("aux_source"), data.get("known")
    parts = [str(data["name"])]
    parts += [] if coarse is None else [f"{len(set(coarse))} coarse labels"]
    if other is not None:
        file = f" {Path(other['path']).name}" if other.get("path") else ""  # two npz are two sources
        parts.append(f"auxiliary from {other['name']}{file}")
    parts += [] if known is None else [f"{known} known label{'s' * (known != 1)} a class"]
    return ", ".join(parts)


def model_name(model: Mapping[str, Any]) -> str:
    """The model for people."""
    return str(model.get("name") or model.get("factory"))


def _named(spec: Any) -> str:
    """``dirichlet(alpha=0.3)`` for ``{dirichlet: {alpha: 0.3}}``."""
    if isinstance(spec, str):
        return spec
    ((name, settings),) = spec.items()
    told = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in (settings or {}).items())
    return f"{name}({told})" if told else str(name)


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value

# SPDX-License-Identifier: Apache-2.0
"""A run folder made of invented numbers and real faces, through the matrix's own store; nothing is trained.

It holds what a page must cope with: names that are markup, values that are missing, failed, refused and weak attacks, an
unusable deployment, one that was never run, and a baseline without a cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splitguard.engine.training import Training
from splitguard.matrix import Cell, Plugin, Record, Store
from splitguard.matrix.record import phases

NASTY = "<script>alert(1)</script>"
TITLE = "Faces behind a cut: <b>which deployment</b> may ship?"
SOURCE = "# a matrix\ndata: faces\nattack: [inverse-network, '</script><script>alert(2)</script>']\n"
VICTIMS, CANDIDATES = 24, 16
SEEDS = (0, 1, 2)
ENVIRONMENT = {"splitguard": "0.1.0", "commit": "0123456789abcdef", "dirty": False, "python": "3.11.7", "torch": "2.13.0"}
FLOPS = {"conv1": 93_600, "conv2": 333_600, "fc1": 429_600, "": 0}
#: Leakage of the undefended network at each cut, by attack.
LEAKS = {
    "white-box-inversion": {"conv1": 0.97, "conv2": 0.78, "fc1": 0.10},
    "inverse-network": {"conv1": 0.46, "conv2": 0.41, "fc1": 0.30},
}
ATTACKS = (
    Plugin("white-box-inversion", settings={"steps": 300, "lr": 0.05}, told={"steps": 300}),
    Plugin("inverse-network", settings={"steps": 2000}),
    Plugin("gradient-norm"),
    Plugin("candidate-match", settings={"candidates": CANDIDATES}),
    Plugin(NASTY, settings={"note": '"><img src=x onerror=alert(3)>'}),
)
GOALS = {"gradient-norm": "labels", "candidate-match": "candidates"}


def gaussian(epsilon: float) -> Plugin:
    return Plugin("gaussian", settings={"epsilon": epsilon, "delta": 1e-5}, told={"epsilon": epsilon})


NOPEEK = Plugin("nopeek", settings={"weight": 0.5}, told={"weight": 0.5})
DEEPER = Plugin("deeper-cut", settings={"by": 1}, moves_only=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """A deployment of the invented run: how it is cut and defended, and what comes of it."""

    mode: str
    base: tuple[str, ...]
    defense: tuple[Plugin, ...] = ()
    labels: str = "sent"
    cuts: tuple[str, ...] = ()
    accuracy: float = 0.84
    shield: float = 1.0
    head: str = "trained"
    epsilon: float | None = None
    run: bool = True


CASES = (
    Case("vanilla", ("conv1",)),
    Case("vanilla", ("conv2",), accuracy=0.845),
    Case("vanilla", ("fc1",), accuracy=0.838),
    Case("vanilla", ("conv1",), (gaussian(8),), accuracy=0.53, shield=0.02, epsilon=8),
    Case("vanilla", ("conv1",), (gaussian(200),), accuracy=0.775, shield=0.55, epsilon=200),
    Case("vanilla", ("conv2",), (gaussian(200),), accuracy=0.807, shield=0.22, epsilon=200),
    Case("vanilla", ("conv2",), (gaussian(200),), accuracy=0.781, shield=0.16, epsilon=200, head="frozen"),
    Case("vanilla", ("conv1",), (NOPEEK,), accuracy=0.826, shield=0.83),
    Case("vanilla", ("conv2",), (NOPEEK, gaussian(200)), accuracy=0.79, shield=0.18, epsilon=200),
    Case("vanilla", ("conv2",), (DEEPER,), cuts=("fc1",), accuracy=0.838),
    Case("vanilla", ("conv2",), labels="server", accuracy=0.845),
    Case("u-shaped", ("conv1", "fc2"), labels="client", accuracy=0.841),
    Case("u-shaped", ("conv2", "fc2"), labels="client", accuracy=0.836),
    Case("u-shaped", ("conv2", "fc2"), (gaussian(200),), labels="client", accuracy=0.798, shield=0.24, epsilon=200),
    Case("splitfed", ("conv1",), accuracy=0.815),
    Case("splitfed", ("conv1",), (Plugin(NASTY),), accuracy=0.80, shield=0.9, run=False),
    Case("centralized", ()),
)


def cells(case: Case, seed: int) -> Iterator[Cell]:
    training = dataclasses.asdict(Training(epochs=10, batch_size=16, head=case.head))  # type: ignore[arg-type]
    for attack in ATTACKS:
        yield Cell(
            data={
                "name": "faces",
                "source": {},
                "clients": 2,
                "partition": "iid",
                "train": 104,
                "test": 48,
                "aux": 24,
                "victims": {"member": VICTIMS, "query": VICTIMS},
                "digest": "89ab45cd01ef2367",
            },
            model={"name": "lenet"},
            mode=case.mode,
            labels=case.labels,
            base=case.base,
            cuts=case.cuts or case.base,
            defense=case.defense,
            training=training,
            attack=attack,
            goal=GOALS.get(attack.name, "inputs"),
            active=False,
            profile="head-known",
            adaptive=True,
            seed=seed,
        )


def write_run(folder: Path, *, cases: tuple[Case, ...] = CASES, seeds: tuple[int, ...] = SEEDS, **matrix: Any) -> Path:
    """The run folder; ``matrix`` overrides what matrix.json says."""
    store, everything = Store(folder), []
    with store.lock():
        for case in cases:
            for seed in seeds:
                for cell in cells(case, seed):
                    everything.append(cell)
                    for phase in phases(cell.goal) if case.run else ():
                        store.write(*_outcome(case, cell, phase))
        store.write_matrix(
            {
                "title": TITLE,
                "demonstration": True,
                "key_version": 1,
                "environment": ENVIRONMENT,
                "seeds": list(seeds),
                "source": SOURCE,
                "cells": [cell.to_json() for cell in everything],
                **matrix,
            }
        )
    return folder


def _outcome(case: Case, cell: Cell, phase: str) -> tuple[Record, dict[str, npt.NDArray[Any]] | None]:
    values, extra = _session(case, cell), _extra(case)
    reason = _refused(case, cell)
    if reason is not None:
        return Record(cell, phase, "refused", reason, values, extra, ENVIRONMENT), None
    if cell.attack.name == NASTY:
        trace = f"Traceback (most recent call last):\nValueError: {NASTY}"
        return Record(cell, phase, "failed", f"broke at {NASTY}", values, {**extra, "traceback": trace}, ENVIRONMENT), None
    if cell.goal == "labels":
        leakage = 0.62 + 0.02 * cell.seed if case.labels == "server" else 0.35 + 0.02 * cell.seed
        values |= {"leakage": leakage, "leakage_low": leakage - 0.1, "leakage_high": leakage + 0.1, "n": 104}
        values |= {"label_accuracy": 0.5 + leakage / 2, "label_auc": 0.5 + leakage / 2, "blind": 0.5}
        extra["halves"] = {"leakage": _half(leakage, 0.1)}
        return Record(cell, phase, "ok", None, values, extra, ENVIRONMENT), None
    if cell.goal == "candidates":
        share = 9 / VICTIMS if case.epsilon else 1.0
        values |= {"choice_accuracy": share, "chance": 1 / CANDIDATES, "blind": 1 / CANDIDATES, "n": VICTIMS}
        values |= {"bound": {None: None, 8: 0.2}.get(case.epsilon, 0.52)}
        return Record(cell, phase, "ok", None, values, extra, ENVIRONMENT), None
    return _inputs(case, cell, phase, values, extra)


def _refused(case: Case, cell: Cell) -> str | None:
    if case.mode == "centralized":
        return "nothing crosses a cut in centralized training"
    if cell.goal == "labels" and case.labels == "sent":
        return "this adversary (the server) is given the labels"
    return None


def _session(case: Case, cell: Cell) -> dict[str, Any]:
    frozen = case.head == "frozen"
    cut = (cell.cuts or ("",))[0]
    return {
        "accuracy": case.accuracy + 0.008 * (cell.seed - 1),
        "accuracy_drop": 0.845 - case.accuracy if cell.defended() != "none" else 0.0,
        "epsilon": case.epsilon if frozen else None,
        "epsilon_rows": case.epsilon,
        "delta": 1e-5 if case.epsilon else None,
        "adjacency": "replace-one" if case.epsilon else None,
        "releases": 11,
        "client_params": 61_706 if not cut else 156 + FLOPS[cut] // 40,
        "client_flops": FLOPS[cut] or 431_000,
        "bytes_up": None if not cut else 7_776_000,
        "bytes_down": None if not cut else 7_361_280,
        "train_seconds": 3.5,
    }


def _extra(case: Case) -> dict[str, Any]:
    said = []
    if case.epsilon is not None:
        strength = f"no meaningful guarantee, only ({case.epsilon:g}, 1e-05)-DP" if case.epsilon > 50 else "(8, 1e-05)-DP"
        said = [f"Each client input has {strength} (replace-one adjacency) against the server; {NASTY} is not covered."]
    return {"guarantees": said, "test_rows": 48, "chance": 0.5}


def _inputs(
    case: Case, cell: Cell, phase: str, values: dict[str, Any], extra: dict[str, Any]
) -> tuple[Record, dict[str, npt.NDArray[Any]]]:
    leak = LEAKS[cell.attack.name][cell.cuts[0]] * case.shield + 0.015 * (cell.seed - 1)
    weak = cell.attack.name == "white-box-inversion" and cell.cuts[0] == "fc1"
    draw = np.random.default_rng([cell.seed, len(cell.attack.name), int(1e6 * leak) + 2**20])
    faces = _faces()
    start = VICTIMS * (phase == "query") + 7 * cell.seed
    truth, mean = faces[start : start + VICTIMS], faces.mean(axis=0, keepdims=True)
    noise = draw.normal(0, 0.22 * (1 - max(leak, 0)) ** 2, truth.shape)
    guess = np.clip(max(leak, 0) * truth + (1 - max(leak, 0)) * mean + noise, 0, 1)
    ssim = np.clip(0.23 + 0.77 * leak + draw.normal(0, 0.05, VICTIMS), -1, 1)
    leakage = float((ssim.mean() - 0.23) / 0.77)
    half = 1.96 * float(ssim.std()) / 0.77 / VICTIMS**0.5
    reid = min(1.0, max(1 / VICTIMS, 1.4 * leakage))
    values |= {
        "ssim": float(ssim.mean()),
        "lpips": None if cell.attack.name == "inverse-network" and cell.seed == 2 else 0.6 * (1 - leakage),
        "psnr": 10 + 18 * max(leakage, 0),
        "mse": float(((guess - truth) ** 2).mean()),
        "reid": reid,
        "reid_pixel": reid,
        "chance": 1 / VICTIMS,
        "blind": 0.23,
        "leakage": leakage,
        "leakage_low": leakage - half,
        "leakage_high": leakage + half,
        "leakage_p95": leakage + 2 * half,
        "recovered": float((ssim >= 0.5).mean()),
        "converged": False if weak else None,
        "weak": weak if cell.attack.name == "white-box-inversion" else None,
        "loss_ratio": (0.31 if weak else 1.02) if cell.attack.name == "white-box-inversion" else None,
        "n": VICTIMS,
        "attack_seconds": 2.0,
    }
    extra["halves"] = {"leakage": _half(leakage, half), "reid_pixel": _half(reid, 0.1)}
    arrays = {
        "guess": _bytes(guess),
        "truth": _bytes(truth),
        "blind_guess": _bytes(np.broadcast_to(mean, truth.shape)),
        "score_ssim": ssim,
        "ids": np.arange(start, start + VICTIMS),
    }
    return Record(cell, phase, "ok", None, values, extra, ENVIRONMENT), arrays


def _half(value: float, half: float) -> Mapping[str, float]:
    return {"choose": value, "report": value, "low": value - half, "high": value + half}


def _faces() -> npt.NDArray[np.float64]:
    """(100, 1, 25, 25) in [0, 1]."""
    from skimage.data import lfw_subset

    faces: npt.NDArray[np.float64] = lfw_subset()[:100, None].astype(np.float64)
    return faces


def _bytes(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    out: npt.NDArray[np.uint8] = np.rint(255 * images).astype(np.uint8)
    return out

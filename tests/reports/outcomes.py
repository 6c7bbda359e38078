# SPDX-License-Identifier: Apache-2.0
"""Invented numbers and real faces for the records of an invented run; nothing is trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from splitguard.matrix import Cell, Record
from tests.reports.cases import BOUNDS, CANDIDATES, ENVIRONMENT, FLOPS, LEAKS, NASTY, VICTIMS, Case


def leaking(record: Record, leakage: float) -> Record:
    """The same attack on inputs, had it reached this leakage."""
    if record.cell.goal != "inputs" or record.status != "ok":
        return record
    extra = {**record.extra, "halves": {"leakage": _half(leakage, 0.0)}}
    return dataclasses.replace(record, values={**record.values, "leakage": leakage}, extra=extra)


def outcome(case: Case, cell: Cell, phase: str) -> tuple[Record, dict[str, npt.NDArray[Any]] | None]:
    """What became of a cell, and its victims' file."""
    values, extra = _session(case, cell), _extra(case)
    reason = _refused(case, cell)
    if reason is not None:
        return Record(cell, phase, "refused", reason, values, extra, ENVIRONMENT), None
    if cell.attack.name == NASTY:
        trace = f"Traceback (most recent call last):\nValueError: {NASTY}"
        return Record(
            cell, phase, "failed", f"broke at {NASTY}", values, {**extra, "traceback": trace}, ENVIRONMENT
        ), None
    if cell.goal == "labels":
        leakage = 0.62 + 0.02 * cell.seed if case.labels == "server" else 0.35 + 0.02 * cell.seed
        values |= {"leakage": leakage, "leakage_low": leakage - 0.1, "leakage_high": leakage + 0.1, "n": 104}
        values |= {"label_accuracy": 0.5 + leakage / 2, "label_auc": 0.5 + leakage / 2, "blind": 0.5}
        extra["halves"] = {"leakage": _half(leakage, 0.1)}
        return Record(cell, phase, "ok", None, values, extra, ENVIRONMENT), None
    if cell.goal == "candidates":
        share = 9 / VICTIMS if case.epsilon else 1.0
        values |= {"choice_accuracy": share, "chance": 1 / CANDIDATES, "blind": 1 / CANDIDATES, "n": VICTIMS}
        values |= {"bound": BOUNDS.get(case.epsilon or 0.0)}
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
        "aux_accuracy": 0.741 if frozen else None,
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
        strength = (
            f"no meaningful guarantee, only ({case.epsilon:g}, 1e-05)-DP" if case.epsilon > 50 else "(8, 1e-05)-DP"
        )
        said = [f"Each client input has {strength} (replace-one adjacency) against the server; {NASTY} is not covered."]
    return {"guarantees": said, "test_rows": 48, "chance": 0.5}


def _inputs(
    case: Case, cell: Cell, phase: str, values: dict[str, Any], extra: dict[str, Any]
) -> tuple[Record, dict[str, npt.NDArray[Any]]]:
    leak = LEAKS[cell.attack.name][cell.cuts[0]] * case.shield * (0.9 if phase == "query" else 1) + 0.015 * (
        cell.seed - 1
    )
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
        "recovered_high": min(1.0, float((ssim >= 0.5).mean()) + 0.1),
        "mismatched": 0.21,
        "converged": False if weak else None,
        "weak": weak if cell.attack.name == "white-box-inversion" else None,
        "loss_ratio": (0.31 if weak else 1.02) if cell.attack.name == "white-box-inversion" else None,
        "n": VICTIMS,
        "attack_seconds": 2.0,
    }
    extra["halves"] = {"leakage": _half(leakage, half), "reid_pixel": _half(reid, 0.1)}
    arrays: dict[str, npt.NDArray[Any]] = {
        "guess": _bytes(guess),
        "truth": _bytes(truth),
        "blind_guess": _bytes(np.broadcast_to(mean, truth.shape)),
        "score_ssim": ssim,
        "ids": np.arange(start, start + VICTIMS),
    }
    return Record(cell, phase, "ok", None, values, extra, ENVIRONMENT), arrays


def _half(value: float, half: float) -> Mapping[str, float]:
    return {"choose": value, "report": value, "low": value - half, "high": value + half}


@functools.cache
def _faces() -> npt.NDArray[np.float64]:
    """(100, 1, 25, 25) in [0, 1]."""
    from skimage.data import lfw_subset

    faces: npt.NDArray[np.float64] = lfw_subset()[:100, None].astype(np.float64)
    return faces


def _bytes(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    out: npt.NDArray[np.uint8] = np.rint(255 * images).astype(np.uint8)
    return out

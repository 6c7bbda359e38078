# SPDX-License-Identifier: Apache-2.0
"""Victims beside their reconstructions, as small pictures inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from splitguard.api import Goal
from splitguard.errors import BadSetting
from splitguard.matrix import Record
from splitguard.reports.facts import Deployment, weak
from splitguard.reports.gather import deployments
from splitguard.reports.words import bracket, count, decimal, percent, victims_of

if TYPE_CHECKING:
    from splitguard.matrix import Results

__all__ = ["Gallery", "Strip", "affordable", "gallery", "strips"]

#: Victims shown a strip, the first in the order of the transcript, whatever became of them.
SHOWN = 8
#: Characters that the pictures of a page may take at most, without compression.
BUDGET = 16_000_000
#: Pixels to which the side of a larger picture is reduced.
LARGEST = 112
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """The first victims of one attack in one phase, in columns: truth above guess above blind guess.

    Attributes:
        record: whose victims they are.
        source: a PNG as a data address.
        width, height: of the PNG.
        scores: SSIM of each, if known.
        caption: the scores over all victims.
        alt: for readers who cannot see it.
        weak: the attack was weak.
    """

    record: Record
    source: str
    width: int
    height: int
    scores: tuple[str, ...]
    caption: str
    alt: str
    weak: bool


class Gallery(str):
    """HTML that a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def gallery(
    results: Results, deployment: int | None = None, attack: str | None = None, victims: int = SHOWN
) -> Gallery:
    """Victims above their reconstructions above the blind guess.

    Args:
        results: of a run.
        deployment: its number in `table`; None for all.
        attack: its name; None for all.
        victims: how many to show, from the first.

    Raises:
        BadSetting: for a number that no deployment has, or fewer than one victim.
    """
    everyone = deployments(results)
    if deployment is not None and deployment not in {d.number for d in everyone}:
        raise BadSetting(f"deployment must be a number in 1..{len(everyone)}, as in table(results); got {deployment}")
    if victims < 1:
        raise BadSetting(f"victims must be 1 or more; got {victims}")
    parts = []
    for one in everyone:
        if deployment in (None, one.number):
            for strip in strips(results, one, victims):
                if attack in (None, strip.record.cell.attack.name):
                    style = f"image-rendering: pixelated; width: {2 * strip.width}px; max-width: 100%"
                    said = escape(f"#{one.number} {one.name}: {strip.caption}")
                    parts.append(
                        f'<figure><img alt="{escape(strip.alt)}" src="{strip.source}" style="{style}">'
                        f"<figcaption>{said}</figcaption></figure>"
                    )
    return Gallery("\n".join(parts) or "<p>No finished attack on inputs.</p>")


def strips(results: Results, deployment: Deployment, victims: int = SHOWN) -> Iterator[Strip]:
    """One strip for each finished attack on inputs and phase, of the first seed."""
    for record in _shown(deployment):
        arrays = _pictures(results, record)
        if arrays is not None:
            yield _strip(deployment.attack_of(record), record, arrays, victims)


def affordable(results: Results, everyone: Sequence[Deployment]) -> int:
    """How many victims each strip of a page can show, in 2..`SHOWN`, so that all pictures fit into `BUDGET`."""
    records = [record for deployment in everyone for record in _shown(deployment)]
    first = next((arrays for record in records if (arrays := _pictures(results, record)) is not None), None)
    if first is None:
        return SHOWN
    channels, height, width = first["truth"].shape[1:]
    base64_of_three_rows = 3 * 4 / 3 * min(channels, 3) * min(height, LARGEST) * min(width, LARGEST)
    return int(min(max(BUDGET // (base64_of_three_rows * len(records)), 2), SHOWN))


def _shown(deployment: Deployment) -> list[Record]:
    """For each attack on inputs and phase its record of the first seed that finished."""
    found: dict[tuple[str, str], Record] = {}
    for record in deployment.finished(Goal.INPUTS):
        key = (str(record.cell.attack.identity()), record.phase)
        if key not in found or record.cell.seed < found[key].cell.seed:
            found[key] = record
    return list(found.values())


def _pictures(results: Results, record: Record) -> dict[str, npt.NDArray[Any]] | None:
    """The victims' file, if it holds images."""
    arrays = results.victims(record)
    usable = arrays is not None and {"truth", "guess"} <= arrays.keys() and arrays["truth"].ndim == 4
    return arrays if usable else None


def _strip(attack: str, record: Record, arrays: dict[str, npt.NDArray[Any]], victims: int) -> Strip:
    rows = [arrays[name][:victims] for name in ("truth", "guess", "blind_guess") if name in arrays]
    source, width, height = _png(_grid(rows))
    ssim = [float(v) for v in arrays.get("score_ssim", [])[:victims]]
    whom = victims_of(record.phase)
    last = ", bottom row: the blind guess" if len(rows) > 2 else ""
    each = f" SSIM {', '.join(decimal(v) for v in ssim)}." if ssim else ""
    return Strip(
        record=record,
        source=source,
        width=width,
        height=height,
        scores=tuple(decimal(v) for v in ssim),
        caption=_caption(attack, record),
        alt=f"Top row: {len(rows[0])} {whom}; second row: what {attack} makes of them{last}.{each}",
        weak=weak(record),
    )


def _caption(attack: str, record: Record) -> str:
    def of(name: str) -> float | None:
        value = record.values.get(name)
        return None if value is None else float(value)

    parts = [
        f"leakage {decimal(of('leakage'))} {bracket(of('leakage_low'), of('leakage_high'))}".rstrip(),
        f"95th percentile {decimal(of('leakage_p95'))}",
        f"SSIM {decimal(of('ssim'))} (blind {decimal(of('blind'))}, against other victims {decimal(of('mismatched'))})",
        f"LPIPS {decimal(of('lpips'))}",
        f"recovered {percent(of('recovered'), 0)} (at most {percent(of('recovered_high'), 0)})",
        f"re-identified {percent(of('reid'), 0)} (chance {percent(of('chance'))})",
        f"n = {count(of('n'))}, seed {record.cell.seed}",
    ]
    return f"{attack}, {victims_of(record.phase)}: {', '.join(parts)}"


def _grid(rows: list[npt.NDArray[Any]]) -> Images:
    """Rows of (N, C, H, W) uint8 as one (H', W', 2 or 4) picture with alpha, a transparent gap after each image.

    Other than three channels are shown as the grey mean of them.
    """
    lines = []
    for images in rows:
        cells = []
        for image in images:
            shown = image if image.shape[0] == 3 else image.mean(axis=0, keepdims=True).round().astype(np.uint8)
            opaque = np.concatenate([shown, np.full_like(shown[:1], 255)])
            cells.append(np.pad(_reduced(opaque), ((0, 0), (0, 1), (0, 1))))
        lines.append(np.concatenate(cells, axis=2))
    out: Images = np.concatenate(lines, axis=1).transpose(1, 2, 0)
    return out


def _reduced(image: Images) -> Images:
    """(C, H, W) with both sides at most `LARGEST`: means over blocks, the last ones cut off where they do not fit."""
    by = -(-max(image.shape[1:]) // LARGEST)
    if by == 1:
        return image
    channels, height, width = image.shape[0], image.shape[1] // by * by, image.shape[2] // by * by
    blocks = image[:, :height, :width].reshape(channels, height // by, by, width // by, by)
    out: Images = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
    return out


def _png(picture: Images) -> tuple[str, int, int]:
    """A PNG as a data address, its width and its height."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    height, width = picture.shape[:2]
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", width, height

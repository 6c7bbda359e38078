# SPDX-License-Identifier: Apache-2.0
"""The best guess at an image by someone who never saw the wire: what leakage 0 means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting
from splitguard.metrics.image import check_images, ssim
from splitguard.metrics.labels import check_labels

__all__ = ["Blind", "blind_images"]

_JUDGES = 256  # pseudo-victims that choose among the kinds
_SINGLES, _SINGLE_JUDGES = 32, 64  # images tried as the single one, and those each is compared with


@dataclass(frozen=True)
class Blind:
    """A blind guess for each victim.

    Attributes:
        kind: mean, median, single image or class mean.
        images: (N, C, H, W) in [0, 1].
        ssim_on_aux: what each kind reached on auxiliary pseudo-victims, in [-1, 1]; the choice rests on it.
    """

    kind: str
    images: Tensor
    ssim_on_aux: Mapping[str, float] = field(default_factory=dict)


def blind_images(
    aux_images: Tensor,
    aux_labels: Tensor | None = None,
    *,
    n: int | None = None,
    labels_known: Tensor | None = None,
    seed: int = 0,
) -> Blind:
    """The best of auxiliary mean, median, single auxiliary image and, where the view has labels, class mean.

    The auxiliary images are split in two halves: each kind is made from one and judged by mean SSIM on the other
    (at most 256 pseudo-victims). The kind that wins is then made again from all of them. Victims play no part. The
    single image is the one nearest by SSIM to the others of its half (32 tried, on 64 each), so its judges do not pick
    it either. One result serves every cell with the same auxiliary images and victims.

    Args:
        aux_images: (M, C, H, W) in [0, 1], M of at least 2, drawn as the victims are. Where all victims are of one
            class and the adversary may know it, give that class's images only: the mean of scikit-image's faces and
            other patches has SSIM 0.26 with faces, the mean of its faces 0.39; the difference would pass for leakage.
        aux_labels: (M,), from 0 up; needed for the class mean.
        n: number of victims, where their labels are not known.
        labels_known: (N,), the victims' labels, only if the adversary's view has them. A class without an auxiliary
            image gets the mean over all.
        seed: draws the halves and the images tried.

    Raises:
        BadSetting: for fewer than two images, victims' labels without auxiliary labels, neither or both of ``n`` and
            ``labels_known``, or values outside their range.
    """
    aux_images = aux_images.detach()
    check_images(aux_images, what="auxiliary images")
    size, device = len(aux_images), aux_images.device
    if size < 2:
        raise BadSetting(
            f"a blind guess is made from one half of the auxiliary images and judged on the other; got {size}"
        )
    labels, wanted = _labels(size, aux_labels, n, labels_known)
    labels, wanted = labels.to(device), wanted.to(device)
    kinds = (
        ("mean", "median", "single image") if labels_known is None else ("mean", "median", "single image", "class mean")
    )

    generator = seeding.generator(seed, "blind guess")
    order = torch.randperm(size, generator=generator).to(device)
    made, judges = order[: size // 2], order[size // 2 :][:_JUDGES]
    reached = {}
    for kind in kinds:
        guess = _make(kind, aux_images[made], labels[made], labels[judges], generator)
        reached[kind] = float(ssim(guess, aux_images[judges]).mean())
    best = max(kinds, key=lambda kind: reached[kind])
    return Blind(best, _make(best, aux_images, labels, wanted, generator).contiguous(), reached)


def _labels(size: int, aux: Tensor | None, n: int | None, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """The auxiliary labels and the victims', checked; where they are not known, one label for all."""
    if (n is None) == (known is None):
        raise BadSetting("give either the number of victims, n, or their labels, labels_known; got both or neither")
    if known is None:
        if n is None or n < 1:
            raise BadSetting(f"n must be at least 1; got {n}")
        return torch.zeros(size, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    if aux is None:
        raise BadSetting("with labels_known the auxiliary labels are needed too; got aux_labels=None")
    check_labels(known, what="labels_known")
    check_labels(aux, what="auxiliary labels")
    if len(aux) != size:
        raise BadSetting(f"there must be one auxiliary label an image; got {len(aux)} for {size} images")
    return aux, known


def _make(kind: str, images: Tensor, labels: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """(N, C, H, W): the blind guess of this kind, made from ``images``, for victims with the labels ``wanted``."""
    if kind == "class mean":
        means = {int(c): images[labels == c].mean(0) for c in torch.unique(labels)}
        return torch.stack([means.get(int(c), images.mean(0)) for c in wanted])
    if kind == "mean":
        one = images.mean(0)
    elif kind == "median":
        one = (images.median(0).values - (-images).median(0).values) / 2  # torch's is the lower of the middle two
    else:
        one = _nearest_to_others(images, generator)
    return one.expand(len(wanted), *one.shape)


def _nearest_to_others(images: Tensor, generator: torch.Generator) -> Tensor:
    """The image with the largest mean SSIM to others; a random few are tried, because all pairs take too long."""
    order = torch.randperm(len(images), generator=generator)
    tried, judges = order[:_SINGLES], order[-_SINGLE_JUDGES:]
    best, best_ssim = images[int(tried[0])], -2.0
    for i in tried:
        others = images[judges[judges != i].to(images.device)]
        if len(others) and (reached := float(ssim(images[int(i)].expand_as(others), others).mean())) > best_ssim:
            best, best_ssim = images[int(i)], reached
    return best

# SPDX-License-Identifier: Apache-2.0
"""The one contract by which every attack is scored: 0 is the best blind guess, 1 is perfect recovery."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitguard import seeding
from splitguard.errors import BadSetting, DataUnavailable, NotSupported
from splitguard.metrics.blind import Blind
from splitguard.metrics.contract import ImageScore, LabelScore
from splitguard.metrics.image import check_images, check_pair, mse, psnr, ssim, ssim_window
from splitguard.metrics.labels import (
    accuracy,
    auc,
    auc_of_batches,
    auc_rows,
    balanced_accuracy,
    balanced_accuracy_rows,
    cells,
    check_labels,
    label_cluster_accuracy,
    majority_accuracy,
    tpr_at_fpr,
)
from splitguard.metrics.perceptual import lpips_embedding
from splitguard.metrics.reid import pixel_distances, squared_distances, top1_hits
from splitguard.metrics.stats import bootstrap, clopper_pearson

__all__ = ["RECOVERED", "MetricMissing", "relative_to_blind", "score_images", "score_labels"]

RECOVERED = 0.5
"""The SSIM from which on an image counts as recovered."""

Array = npt.NDArray[np.float64]


class MetricMissing(UserWarning):
    """A metric could not be computed here; its value stays empty, and the message says how to get it."""


def relative_to_blind(value: float, blind: float) -> float | None:
    """``(value - blind) / (1 - blind)``: 0 at the blind guess, 1 at perfect, signed; None where blind is perfect."""
    return (value - blind) / (1 - blind) if 1 - blind > 1e-9 else None


def score_images(
    guess: Tensor, truth: Tensor, blind: Blind, *, gallery: Tensor | None = None, seed: int = 0
) -> ImageScore:
    """Scores reconstructed images.

    Args:
        guess: (N, C, H, W) in [0, 1], one a victim; never the best of several by the truth.
        truth: (N, C, H, W) in [0, 1], the victims in the same order.
        blind: from `blind_images`, for the same victims.
        gallery: (M, C, H, W), further images among which a victim must be found, as the victims that the attack did not
            answer for; the gallery for re-identification is the truth followed by these.
        seed: draws the bootstrap.

    Returns:
        See `ImageScore`. LPIPS and re-identification by it are None, with a `MetricMissing` warning, where the weights
        are missing or the images have neither 1 nor 3 channels.

    Raises:
        BadSetting: for shapes that differ, values outside [0, 1], or NaN.
    """
    truth = truth.detach()
    guess, blind_guess = guess.detach().to(truth.device), blind.images.detach().to(truth.device)
    check_pair(guess, truth)
    check_pair(blind_guess, truth)
    everyone = truth
    if gallery is not None and len(gallery):
        check_images(gallery, what="gallery")
        if gallery.shape[1:] != truth.shape[1:]:
            raise BadSetting(f"gallery images must be {tuple(truth.shape[1:])}; got {tuple(gallery.shape[1:])}")
        everyone = torch.cat([truth, gallery.detach().to(truth)])

    n, blind_ssim = len(truth), ssim(blind_guess, truth)
    per_victim = {
        "ssim": ssim(guess, truth),
        "psnr": psnr(guess, truth),
        "mse": mse(guess, truth),
        "blind": blind_ssim,
        "reid_pixel": top1_hits(pixel_distances(guess, everyone)),
    }
    perceptual = _lpips_distances(guess, everyone)
    if perceptual is not None:
        per_victim |= {"lpips": perceptual.diagonal(), "reid_lpips": top1_hits(perceptual)}
    per_victim = {name: values.double().cpu() for name, values in per_victim.items()}
    mean = {name: float(values.mean()) for name, values in per_victim.items()}
    if len(everyone) == 1:  # the only image is always the nearest
        del mean["reid_pixel"]
        mean.pop("reid_lpips", None)
    reid = [mean[name] for name in ("reid_pixel", "reid_lpips") if name in mean]

    share = int((per_victim["ssim"] >= RECOVERED).sum())
    unlucky = float(torch.quantile(per_victim["ssim"], 0.95))
    interval = bootstrap(
        _leakage_rows, per_victim["ssim"], per_victim["blind"], generator=seeding.numpy_generator(seed, "image score")
    )
    return ImageScore(
        ssim=mean["ssim"],
        lpips=mean.get("lpips"),
        psnr=mean["psnr"],
        mse=mean["mse"],
        blind=mean["blind"],
        blind_kind=blind.kind,
        leakage=relative_to_blind(mean["ssim"], mean["blind"]),
        leakage_low=interval.low if interval else None,
        leakage_high=interval.high if interval else None,
        leakage_p95=relative_to_blind(unlucky, mean["blind"]),
        recovered=share / n,
        recovered_high=clopper_pearson(share, n).high,
        reid_pixel=mean.get("reid_pixel"),
        reid_lpips=mean.get("reid_lpips"),
        reid=max(reid) if reid else None,
        chance=1 / len(everyone),
        mismatched=float(ssim(guess, truth.roll(1, dims=0)).mean()) if n > 1 else None,
        ssim_window=ssim_window(*truth.shape[-2:]),
        n=n,
        per_victim=per_victim,
    )


def score_labels(
    guess: Tensor | None,
    scores: Tensor | None,
    truth: Tensor,
    *,
    classes: int,
    prior: Tensor,
    batches: Tensor | None = None,
    seed: int = 0,
) -> LabelScore:
    """Scores inferred labels.

    Args:
        guess: (N,) in 0..K-1; None to take the largest score.
        scores: (N, K), larger is more likely; or (N,) with two classes, larger means class 1; or None.
        truth: (N,) in 0..K-1, the victims in the same order.
        classes: K, at least 2.
        prior: (K,), class frequencies the attacker may know, as counted on auxiliary data; never from ``truth``. All
            NaN where it knows none, as without auxiliary rows.
        batches: (N,), for each victim the batch that its row was in, as whole numbers; None where that is not known.
        seed: draws the bootstrap.

    Returns:
        See `LabelScore`. Leakage by balanced accuracy takes for K the number of classes among the victims, so that one
        constant guess never scores above 0; with all classes present that is K. It is None if there is one class only.
        The blind guess is None where no prior is known; leakage, which is against chance, does not need it.

    Raises:
        BadSetting: for neither guess nor scores, other shapes, labels out of range, or scores that are not finite.
    """
    if classes < 2:
        raise BadSetting(f"labels can be inferred among 2 classes or more; got classes={classes}")
    check_labels(truth, classes=classes, what="truth")
    if len(prior) != classes:
        raise BadSetting(f"prior must have one frequency for each of the {classes} classes; got {len(prior)}")
    truth = truth.cpu()
    margin = None
    if scores is not None:
        scores = _class_scores(scores, len(truth), classes)
        margin = scores[:, 1] - scores[:, 0] if classes == 2 else None
    if guess is None:
        if scores is None:
            raise BadSetting("labels are scored from guessed labels, from scores, or both; got neither")
        guess = scores.argmax(1)
    guess = guess.cpu()
    check_labels(guess, classes=classes, what="guessed labels")

    balanced = balanced_accuracy(guess, truth)
    area = None if margin is None else auc(margin, truth)
    blind = None if bool(prior.isnan().all()) else majority_accuracy(truth, prior)
    generator = seeding.numpy_generator(seed, "label score")
    if margin is None:
        present = len(torch.unique(truth))
        leakage = None if balanced is None else relative_to_blind(balanced, 1 / present)
        interval = bootstrap(_balanced_leakage_rows, cells(truth, guess == truth), generator=generator)
    else:
        leakage = None if area is None else 2 * area - 1
        interval = bootstrap(_auc_leakage_rows, cells(margin, truth), generator=generator)
    return LabelScore(
        label_accuracy=accuracy(guess, truth),
        label_cluster_accuracy_oracle=label_cluster_accuracy(guess, truth),
        balanced_accuracy=balanced,
        label_auc=area,
        label_auc_95=None if margin is None or batches is None else auc_of_batches(margin, truth, batches.cpu()),
        label_tpr=None if margin is None else tpr_at_fpr(margin, truth, fpr=0.01),
        blind=blind,
        leakage=leakage,
        leakage_low=interval.low if interval else None,
        leakage_high=interval.high if interval else None,
        n=len(truth),
    )


def _lpips_distances(guess: Tensor, gallery: Tensor) -> Tensor | None:
    """(N, M) LPIPS of each guess to each image of the gallery; None, with a warning, where there is no LPIPS."""
    try:
        return squared_distances(lpips_embedding(guess), _remembered(gallery))
    except (DataUnavailable, NotSupported) as error:
        warnings.warn(f"LPIPS stays empty. {error}", MetricMissing, stacklevel=3)
        return None


#: Member victims and query victims are scored in turn.
_GALLERIES = 2
_LAST_GALLERIES: list[tuple[Tensor, Tensor]] = []


def _remembered(gallery: Tensor) -> Tensor:
    """The gallery's embedding, made once for a row of attacks on the same victims."""
    for images, points in _LAST_GALLERIES:
        if (images.dtype, images.device) == (gallery.dtype, gallery.device) and torch.equal(images, gallery):
            return points
    made = lpips_embedding(gallery)
    _LAST_GALLERIES[:] = [(gallery.clone(), made), *_LAST_GALLERIES[: _GALLERIES - 1]]
    return made


def _class_scores(scores: Tensor, n: int, classes: int) -> Tensor:
    """(N, K) on the CPU, checked; a score for class 1 alone becomes (0, score)."""
    scores = scores.detach().double().cpu()
    if scores.shape == (n,) and classes == 2:
        scores = torch.stack([torch.zeros_like(scores), scores], dim=1)
    if scores.shape != (n, classes):
        raise BadSetting(f"scores must be ({n}, {classes}), one a victim and class; got {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise BadSetting("scores must be finite; got NaN or infinity")
    return scores


def _leakage_rows(ssims: Array, blinds: Array) -> Array:
    blind = blinds.mean(axis=1)
    room = 1 - blind
    return np.where(room > 1e-9, (ssims.mean(axis=1) - blind) / np.maximum(room, 1e-9), np.nan)


def _auc_leakage_rows(drawn: Array) -> Array:
    return np.asarray(2 * auc_rows(drawn) - 1)


def _balanced_leakage_rows(drawn: Array) -> Array:
    balanced, present = balanced_accuracy_rows(drawn)
    chance = 1 / np.maximum(present, 2)
    return np.asarray((balanced - chance) / (1 - chance))

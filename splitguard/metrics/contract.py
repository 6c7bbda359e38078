# SPDX-License-Identifier: Apache-2.0
"""The numbers that scoring hands out, each with its range and meaning; `score` computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["AttributeScore", "ChoiceScore", "FunctionalityScore", "ImageScore", "LabelScore", "MembershipScore"]


class _Score:
    def as_dict(self) -> dict[str, Any]:
        """All numbers by name, as JSON takes them; None where one is missing. Values per victim are left out."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {f.name: getattr(self, f.name) for f in fields if f.name != "per_victim"}


@dataclass(frozen=True)
class ImageScore(_Score):
    """How well images were reconstructed; means over N victims, None where missing.

    Attributes:
        ssim: in [-1, 1].
        lpips: AlexNet v0.1; smaller is closer.
        psnr: dB, mean of per-image values, each at most 100.
        mse: for images in [0, 1].
        blind: mean SSIM of the blind guess on the same victims.
        blind_kind: which blind guess, chosen on auxiliary data.
        leakage: (ssim - blind) / (1 - blind), signed; 0 is blind, 1 perfect.
        leakage_low: lower end of its 95 % bootstrap interval over victims, one seed.
        leakage_high: upper end.
        leakage_p95: 95th percentile over victims of (ssim_i - blind) / (1 - blind): the unlucky ones.
        recovered: share of victims with SSIM >= 0.5.
        recovered_high: upper end of its two-sided 95 % Clopper-Pearson interval.
        reid_pixel: share of guesses nearest to their own victim in the gallery, by pixels; ties count in parts.
        reid_lpips: the same by LPIPS.
        reid: the larger of the two rates: the worst case over two attackers who each stick to one distance for all
            victims (never the better one image by image). By luck alone it lies a little above `chance`.
        chance: 1 / images in the gallery.
        mismatched: mean SSIM of the same guesses with other victims, the second null.
        ssim_window: side of the SSIM window in pixels, under 11 for small images.
        n: number of victims.
        per_victim: ssim, lpips, psnr, mse, blind (SSIM), reid_pixel, reid_lpips, each (N,) float64 on the CPU.
    """

    ssim: float
    lpips: float | None
    psnr: float
    mse: float
    blind: float
    blind_kind: str
    leakage: float | None
    leakage_low: float | None
    leakage_high: float | None
    leakage_p95: float | None
    recovered: float
    recovered_high: float
    reid_pixel: float | None
    reid_lpips: float | None
    reid: float | None
    chance: float
    mismatched: float | None
    ssim_window: int
    n: int
    per_victim: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class LabelScore(_Score):
    """How well labels were inferred, over N victims; None where missing.

    Attributes:
        label_accuracy: share guessed right.
        label_cluster_accuracy_oracle: share guessed right had each guess been renamed by the best permutation of
            classes, which takes the true labels to find; no attacker reaches it but by naming classes better.
        balanced_accuracy: mean recall over the classes among the victims; None if there is one only.
        label_auc: for two classes with scores; the sign is fixed in advance, larger means class 1.
        label_auc_95: the 95th percentile over training batches of .5 + |AUC - .5|, where batches are known.
        label_tpr: true positives at 1 % false positives; as `label_auc`.
        blind: accuracy of always guessing the most frequent class of the prior; None if no prior is known.
        leakage: 2 AUC - 1 for two classes with scores; else (balanced accuracy - 1/K) / (1 - 1/K). Signed.
        leakage_low: lower end of its 95 % bootstrap interval over victims, one seed.
        leakage_high: upper end.
        n: number of victims.
    """

    label_accuracy: float
    label_cluster_accuracy_oracle: float
    balanced_accuracy: float | None
    label_auc: float | None
    label_auc_95: float | None
    label_tpr: float | None
    blind: float | None
    leakage: float | None
    leakage_low: float | None
    leakage_high: float | None
    n: int


@dataclass(frozen=True)
class ChoiceScore(_Score):
    """How often the right candidate was named.

    Attributes:
        accuracy: share named right.
        accuracy_low: lower end of its two-sided 95 % Clopper-Pearson interval.
        accuracy_high: upper end.
        chance: 1 / candidates.
        leakage: (accuracy - chance) / (1 - chance), signed.
        leakage_low: the same of accuracy_low.
        leakage_high: the same of accuracy_high.
        n: number of victims.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    leakage: float
    leakage_low: float
    leakage_high: float
    n: int


@dataclass(frozen=True)
class AttributeScore(_Score):
    """How well an attribute of the victims was inferred, over N victims; None where missing.

    Attributes:
        attribute_accuracy: share guessed right.
        balanced_accuracy: mean recall over the values among the victims; None if there is one only.
        blind: balanced accuracy of the guess that needs no smashed data, on the same victims.
        leakage: (balanced accuracy - blind) / (1 - blind), signed; None where blind is perfect.
        leakage_low: lower end of its 95 % bootstrap interval over victims, one seed.
        leakage_high: upper end.
        n: number of victims.
    """

    attribute_accuracy: float
    balanced_accuracy: float | None
    blind: float | None
    leakage: float | None
    leakage_low: float | None
    leakage_high: float | None
    n: int


@dataclass(frozen=True)
class MembershipScore(_Score):
    """How well rows that were trained on are told from others of the same kind; None where missing.

    Attributes:
        membership_auc: P(score of a member > score of a stranger) + P(equal) / 2; the sign is fixed in advance.
        membership_tpr: members found by a threshold that takes at most 1 % of the strangers for members; with fewer
            than 100 strangers, none of them.
        membership_tpr_low: lower end of its 95 % Clopper-Pearson interval, the threshold taken as given.
        membership_tpr_high: upper end.
        blind: 1/2, the AUC of any guess that is independent of who was trained on.
        leakage: 2 AUC - 1, signed.
        leakage_low: lower end of its 95 % bootstrap interval over rows, one seed.
        leakage_high: upper end.
        n: number of rows, members and strangers together.
    """

    membership_auc: float | None
    membership_tpr: float | None
    membership_tpr_low: float | None
    membership_tpr_high: float | None
    blind: float
    leakage: float | None
    leakage_low: float | None
    leakage_high: float | None
    n: int


@dataclass(frozen=True)
class FunctionalityScore(_Score):
    """How much of the deployed network works in the attacker's hands, over N test rows; None where missing.

    Attributes:
        stolen_accuracy: of the server's layers behind the stolen ones.
        stolen_low: lower end of its two-sided 95 % Clopper-Pearson interval.
        stolen_high: upper end.
        deployed_accuracy: of the deployment on the same rows.
        blind: accuracy without the wire, on the same rows.
        leakage: (stolen - blind) / (deployed - blind), signed; above 1 where what was stolen is better than the
            deployment with its defense. None where the deployment is no better than blind.
        leakage_low: lower end of its 95 % bootstrap interval over test rows, one seed.
        leakage_high: upper end.
        n: number of test rows.
    """

    stolen_accuracy: float
    stolen_low: float
    stolen_high: float
    deployed_accuracy: float
    blind: float
    leakage: float | None
    leakage_low: float | None
    leakage_high: float | None
    n: int

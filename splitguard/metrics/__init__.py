# SPDX-License-Identifier: Apache-2.0
"""Metrics: pure functions of tensors, one value per sample where that makes sense; and the scoring contract."""

from splitguard.metrics.blind import Blind, blind_images
from splitguard.metrics.contract import ChoiceScore, ImageScore, LabelScore
from splitguard.metrics.dependence import dcor, linear_cka
from splitguard.metrics.image import mse, psnr, ssim, ssim_window
from splitguard.metrics.labels import (
    accuracy,
    auc,
    balanced_accuracy,
    label_cluster_accuracy,
    majority_accuracy,
    tpr_at_fpr,
)
from splitguard.metrics.perceptual import lpips, lpips_available, lpips_embedding
from splitguard.metrics.score import MetricMissing, score_choices, score_images, score_labels
from splitguard.metrics.stats import (
    Difference,
    Interval,
    bootstrap,
    clopper_pearson,
    paired_difference,
    pareto_front,
    spearman,
    t_interval,
)

__all__ = [
    "Blind",
    "ChoiceScore",
    "Difference",
    "ImageScore",
    "Interval",
    "LabelScore",
    "MetricMissing",
    "accuracy",
    "auc",
    "balanced_accuracy",
    "blind_images",
    "bootstrap",
    "clopper_pearson",
    "dcor",
    "label_cluster_accuracy",
    "linear_cka",
    "lpips",
    "lpips_available",
    "lpips_embedding",
    "majority_accuracy",
    "mse",
    "paired_difference",
    "pareto_front",
    "psnr",
    "score_choices",
    "score_images",
    "score_labels",
    "spearman",
    "ssim",
    "ssim_window",
    "t_interval",
    "tpr_at_fpr",
]

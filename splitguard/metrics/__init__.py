# SPDX-License-Identifier: Apache-2.0
"""Metrics: pure functions of tensors, one value per sample where that makes sense; and the scoring contract."""

from splitguard.metrics.beyond import (
    blind_attributes,
    score_attributes,
    score_choices,
    score_functionality,
    score_membership,
)
from splitguard.metrics.blind import Blind, blind_images
from splitguard.metrics.contract import (
    AttributeScore,
    ChoiceScore,
    FunctionalityScore,
    ImageScore,
    LabelScore,
    MembershipScore,
)
from splitguard.metrics.dependence import dcor, linear_cka
from splitguard.metrics.image import mse, psnr, ssim, ssim_window
from splitguard.metrics.labels import (
    accuracy,
    auc,
    auc_of_batches,
    balanced_accuracy,
    label_cluster_accuracy,
    majority_accuracy,
    tpr_at_fpr,
)
from splitguard.metrics.perceptual import lpips, lpips_available, lpips_embedding
from splitguard.metrics.recognise import Outsider, train_outsider
from splitguard.metrics.score import MetricMissing, score_images, score_labels
from splitguard.metrics.sets import frechet, frechet_alexnet
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
    "AttributeScore",
    "Blind",
    "ChoiceScore",
    "Difference",
    "FunctionalityScore",
    "ImageScore",
    "Interval",
    "LabelScore",
    "MembershipScore",
    "MetricMissing",
    "Outsider",
    "accuracy",
    "auc",
    "auc_of_batches",
    "balanced_accuracy",
    "blind_attributes",
    "blind_images",
    "bootstrap",
    "clopper_pearson",
    "dcor",
    "frechet",
    "frechet_alexnet",
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
    "score_attributes",
    "score_choices",
    "score_functionality",
    "score_images",
    "score_labels",
    "score_membership",
    "spearman",
    "ssim",
    "ssim_window",
    "t_interval",
    "tpr_at_fpr",
    "train_outsider",
]

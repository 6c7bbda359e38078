# SPDX-License-Identifier: Apache-2.0
"""Clip and Gaussian noise on the gradient that the label owner returns for each row, with an account of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from splitguard import privacy
from splitguard.api import (
    DEFENSES,
    BadSetting,
    Context,
    Defense,
    Deployment,
    Guarantee,
    NotSupported,
    Phase,
    Spec,
    standard_normal,
)
from splitguard.building.label_side import against, need_returned_gradient
from splitguard.building.rows_alone import clip_rows, row_norms
from splitguard.errors import Diverged

__all__ = ["GradientNoise"]


@DEFENSES.add("gradient-noise")
@dataclass(kw_only=True)
class GradientNoise(Defense):
    """Returns ``clip_C(g) + N(0, sigma^2 I)`` in place of each row's gradient g, with fresh noise every time.

    g is per sample, the gradient of the row's own loss; the clip is in L2 over all its coordinates. Whatever the label,
    a row's clipped gradient lies in a ball of radius C, so replacing the label moves it by at most ``Delta = 2 C``, and
    its T gradients (one an epoch) are exactly mu-GDP with ``mu = sqrt(T) Delta / sigma``. A ledger counts them and
    refuses one beyond the plan.

    What is guaranteed, along the channel ``labels``, is ``epsilon_rows``: a row's own T returned gradients. There is
    never an epsilon for the whole view: the layers above the cut are trained on the true labels, and the gradients of
    other rows go through them. `label-dp` covers the whole view. Nothing is guaranteed without a clip or without noise;
    with ``clip: none`` and ``sigma: 0`` it is an identity, to the bit. Where labels are sent it refuses.

    Args:
        epsilon: of the (epsilon, delta) pair of a row's label against its own returned gradients; positive. Give this
            or ``sigma``; without either it is 8.
        sigma: standard deviation of the noise, in units of the per-sample gradient; 0 or more.
        delta: in (0, 1).
        clip: C, positive, in units of the per-sample gradient (loss per unit of what crosses); ``none``: no clip, which
            allows no ``epsilon``. It is not found automatically, as the label owner's layers are not trained on
            auxiliary rows; gradients shrink as the training goes on, and what is shorter than C is drowned.

    Raises:
        BadSetting: for settings outside their range or at odds.
        NotSupported: from `bind`, where the labels are sent.
        ReleaseRefused: from `on_return`, for a row whose gradient was returned as often as planned.
        Diverged: from `on_return`, for a gradient that is not finite, which no clip bounds.

    Source: noise without a clip: Li et al., Label leakage and protection in two-party split learning, ICLR 2022, there
    isotropic with a standard deviation set by the batch's longest gradient; exact composition: Dong, Roth, Su, Gaussian
    differential privacy, JRSS-B 2022. Differences: clipped by row, a fixed standard deviation, accounted.
    """

    epsilon: float | None = None
    sigma: float | None = None
    delta: float = 1e-5
    clip: float | Literal["none"] = 0.1
    _scale: tuple[float, float] | None = field(default=None, init=False, repr=False, compare=False)
    _planned: int = field(default=0, init=False, repr=False, compare=False)
    _ledger: privacy.Ledger | None = field(default=None, init=False, repr=False, compare=False)
    _guarantee: Guarantee | None = field(default=None, init=False, repr=False, compare=False)

    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Li et al., Label leakage and protection in two-party split learning, ICLR 2022"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "gradients"
    null: ClassVar[Mapping[str, Any] | None] = {"sigma": 0.0, "clip": "none"}
    breakers: ClassVar[tuple[Spec, ...]] = (
        "gradient-cosine",
        "gradient-spectral",
        "similarity",
        "similarity-smashed",
        "model-completion",
        "exploit",
        "gradient-norm",
    )

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.sigma is not None:
            raise BadSetting(
                f"gradient-noise: epsilon={self.epsilon} and sigma={self.sigma} were both given; one follows from the "
                "other. Give one"
            )
        if self.sigma is None:
            self.epsilon = 8.0 if self.epsilon is None else self.epsilon
            if self.clip == "none":
                raise BadSetting(
                    "gradient-noise: clip: none leaves no sensitivity, so no epsilon; give a clip, or sigma"
                )
        if isinstance(self.clip, str) and self.clip != "none":
            raise BadSetting(f"gradient-noise: clip must be a number or none; got {self.clip!r}")
        given = {"epsilon": self.epsilon, "sigma": self.sigma or None, "delta": self.delta}
        given["clip"] = None if isinstance(self.clip, str) else self.clip
        for name, value in given.items():
            below = 1 if name == "delta" else math.inf
            if value is not None and not 0 < value < below:
                raise BadSetting(f"gradient-noise: {name} must lie above 0 and below {below}; got {value!r}")

    def bind(self, deployment: Deployment) -> None:
        """Fixes clip and noise for this deployment, and what they guarantee there."""
        clip = math.inf if isinstance(self.clip, str) else float(self.clip)
        if (self.sigma, clip) != (0, math.inf):
            need_returned_gradient(deployment, self.name)
        # Gradients come back in every epoch, also where smashed data are sent in the first one only.
        self._planned = max(deployment.epochs, 1)
        sigma = self.sigma
        if sigma is None:
            assert self.epsilon is not None
            sigma = privacy.sigma(epsilon=self.epsilon, clip=clip, releases=self._planned, delta=self.delta)
        self._scale = (clip, sigma)
        if sigma > 0 and clip < math.inf:
            self._ledger = privacy.Ledger({"training": self._planned})
            self._guarantee = self._statement(deployment)

    @property
    def _bound(self) -> tuple[float, float]:
        if self._scale is None:
            raise NotSupported("gradient-noise: clip and noise are set for a deployment; call bind before training")
        return self._scale

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """``clip_C(grad) + N(0, sigma^2 I)``, (N, *cut), per sample, counted in the ledger."""
        clip, sigma = self._bound
        if not bool(torch.isfinite(row_norms(grad)).all()):
            raise Diverged("gradient-noise: a gradient is not finite, so no clip bounds it; nothing was returned")
        if self._ledger is not None:
            self._ledger.charge(ctx.ids, Phase.TRAINING)
        out = clip_rows(grad, clip)
        if sigma > 0:
            out = out + sigma * standard_normal(out.shape, generator).to(out.device)
        return out.to(grad.dtype)

    def privacy(self) -> tuple[Guarantee, ...]:
        """One statement about the labels; none without a clip or without noise."""
        return () if self._guarantee is None else (self._guarantee,)

    def _statement(self, deployment: Deployment) -> Guarantee:
        clip, sigma = self._bound
        return Guarantee(
            channel="labels",
            epsilon_rows=privacy.epsilon(sigma=sigma, clip=clip, releases=self._planned, delta=self.delta),
            epsilon=None,
            epsilon_query=None,
            delta=self.delta,
            adjacency="replace-one",
            sensitivity=privacy.sensitivity(clip),
            T=self._planned,
            adversary=against(deployment),
            mechanism=f"a clip of the returned gradient to norm {clip:.4g} and Gaussian noise of standard deviation "
            f"{sigma:.4g}",
            exclusions=(
                "layers above the cut are trained on the true labels, and gradients of other rows go through them",
                "a query returns no gradient",
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """Clip, noise, plan, counts and guarantee, so that a fresh instance goes on without `bind`; empty before it."""
        if self._scale is None:
            return {}
        return {
            "scale": list(self._scale),
            "planned": self._planned,
            "ledger": None if self._ledger is None else self._ledger.state_dict(),
            "guarantee": None if self._guarantee is None else self._guarantee.as_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; what `bind` set is replaced."""
        if not state:
            return
        clip, sigma = state["scale"]
        self._scale, self._planned = (clip, sigma), state["planned"]
        self._ledger = None if state["ledger"] is None else privacy.Ledger({"training": self._planned})
        if self._ledger is not None:
            self._ledger.load_state_dict(state["ledger"])
        self._guarantee = None if state["guarantee"] is None else Guarantee.from_dict(state["guarantee"])

# SPDX-License-Identifier: Apache-2.0
"""DP-SGD on the head: each row's gradient is clipped and noise added to their sum before the client steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

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
)
from splitguard.building.noisy_release import in_range

__all__ = ["DpSgdHead"]


@DEFENSES.add("dp-sgd-head")
@dataclass(kw_only=True)
class DpSgdHead(Defense):
    """Trains the head with ``(sum_i clip_C(g_i) + N(0, (z C)^2 I)) / n`` in place of the batch's mean gradient.

    g_i is the gradient of row i's own loss in all weights of the head together, found by Opacus: the server returns the
    gradient of the mean loss over the same n rows, so times n it is per sample. What is sent goes out as it is. **This
    protects weights, not smashed data**: it is for a head that is published, or averaged by somebody who sees nothing
    else. Against the server it is no defense at all; feature-space hijacking reconstructs inputs at any epsilon.

    What is guaranteed, along the channel ``head-weights``, is ``epsilon_rows``: a row's own clipped gradients, one in
    each of E epochs. The batches of an epoch are disjoint, so exactly ``mu = sqrt(E) Delta / (z C)`` with Delta = 2C
    (replace-one) or C (zero-out); who is in which batch is known to the server, and nothing is gained from subsampling.
    There is never an epsilon for the whole view: a gradient reaches the head through a body that was trained on the
    same rows' smashed data and labels without noise, so other rows' gradients depend on a row as well.

    With ``noise: 0`` and ``clip: none`` it is an identity, to the bit. With noise 0 and a clip that nothing reaches,
    the step is that of plain training up to rounding, as the sum over rows is taken in another order.

    Args:
        epsilon: of the (epsilon, delta) pair of a row's own gradients in all epochs; positive. Give this or ``noise``;
            without either it is 8.
        noise: z, the noise multiplier: the noise on the sum has the standard deviation z C; 0 or more.
        delta: in (0, 1).
        clip: C, positive, in units of a row's gradient in all weights of the head; ``none``: no clip, which allows
            neither noise nor an ``epsilon``.
        adjacency: ``replace-one`` (Delta = 2C) or ``zero-out`` (Delta = C).

    Raises:
        BadSetting: for settings outside their range or at odds.
        NotSupported: from `bind`, for a frozen head, a head with BatchNorm, or one with parameters outside of layers.

    Source: Abadi et al., Deep learning with differential privacy, CCS 2016; that it is no defense against the server:
    Gawron, Stubbings, Feature space hijacking attacks against differentially private split learning, PPAI 2022.
    Differences: the session's batches, no Poisson sampling, and an exact account without amplification; in place of
    the expected size of a batch its own.
    """

    epsilon: float | None = None
    noise: float | None = None
    delta: float = 1e-5
    clip: float | Literal["none"] = 1.0
    adjacency: privacy.Adjacency = "replace-one"
    _scale: tuple[float, float] | None = field(default=None, init=False, repr=False, compare=False)
    _guarantee: Guarantee | None = field(default=None, init=False, repr=False, compare=False)
    _draws: torch.Generator | None = field(default=None, init=False, repr=False, compare=False)

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Abadi et al., Deep learning with differential privacy, CCS 2016"
    per_sample: ClassVar[bool] = True
    acts: ClassVar[str] = "head's training"
    null: ClassVar[Mapping[str, Any] | None] = {"noise": 0.0, "clip": "none"}
    breakers: ClassVar[tuple[Spec, ...]] = ("fsha", "white-box-inversion", "inverse-network", "idlg", "membership")

    def __post_init__(self) -> None:
        if self.epsilon is not None and self.noise is not None:
            raise BadSetting(
                f"dp-sgd-head: epsilon={self.epsilon} and noise={self.noise} were both given; one follows from the "
                "other. Give one"
            )
        if self.noise is None:
            self.epsilon = 8.0 if self.epsilon is None else self.epsilon
            in_range(self.name, "epsilon", self.epsilon)
        elif self.noise != 0:
            in_range(self.name, "noise", self.noise)
        if isinstance(self.clip, str):
            if self.clip != "none" or self.noise != 0:
                raise BadSetting(
                    f"dp-sgd-head: clip must be a number, or none with noise: 0, as noise is in units of the clip; "
                    f"got clip={self.clip!r}, noise={self.noise!r}"
                )
        else:
            in_range(self.name, "clip", self.clip)
        in_range(self.name, "delta", self.delta, below=1)
        privacy.sensitivity(1.0, self.adjacency)

    def bind(self, deployment: Deployment) -> None:
        """Fixes clip and noise for E epochs, and what they guarantee."""
        if isinstance(self.clip, str):
            return
        if deployment.head_frozen:
            raise NotSupported(
                "dp-sgd-head: the head is frozen, so private rows never train it and there is nothing to clip. Leave "
                "this defense out, or use train: {head: trained}"
            )
        from splitguard.building.head_gradients import need_rows_apart

        need_rows_apart(copy.deepcopy(deployment.head).requires_grad_(True), self.name)
        uses = max(deployment.releases.get(Phase.TRAINING, 0), 1)
        noise = self.noise
        if noise is None:
            assert self.epsilon is not None
            noise = privacy.sigma(
                epsilon=self.epsilon, clip=1.0, releases=uses, delta=self.delta, adjacency=self.adjacency
            )
        self._scale = (float(self.clip), noise)
        self._guarantee = self._statement(uses, deployment) if noise > 0 else None

    def optimizer(
        self, head: nn.Module, make: Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer | None:
        """The session's optimizer behind clip and noise; None, and so the session's own, without a clip."""
        if self.clip == "none":
            return None
        if self._scale is None:
            raise NotSupported("dp-sgd-head: clip and noise are set for a deployment; call bind before optimizer")
        from splitguard.building.head_gradients import HeadOptimizer, watch_rows

        clip, noise = self._scale
        watch_rows(head)
        inner = make([p for p in head.parameters() if p.requires_grad])
        optimizer: torch.optim.Optimizer = HeadOptimizer(inner, noise=noise, clip=clip, draws=self._generator)
        return optimizer

    def sampler(self, rows: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor] | None:
        """The session's own batches, disjoint; the account rests on that, so no other part may bring any."""
        if self.clip == "none":
            return None
        batches: Sequence[Tensor] = torch.randperm(rows, generator=generator).split(batch_size)
        return batches

    def probe(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor | None:
        """No probe: it takes note of the session's randomness, from which the optimizer draws."""
        self._draws = generator
        return None

    def _generator(self) -> torch.Generator:
        if self._draws is None:
            raise NotSupported("dp-sgd-head: the noise is drawn from the session's generator; call probe before a step")
        return self._draws

    def privacy(self) -> tuple[Guarantee, ...]:
        """One statement about the head's weights; none without noise."""
        return () if self._guarantee is None else (self._guarantee,)

    def _statement(self, uses: int, deployment: Deployment) -> Guarantee:
        assert self._scale is not None
        clip, noise = self._scale
        tail = "the tail, handed over with the head, is trained on the same rows without clip or noise"
        return Guarantee(
            channel="head-weights",
            epsilon_rows=privacy.epsilon(
                sigma=noise, clip=1.0, releases=uses, delta=self.delta, adjacency=self.adjacency
            ),
            epsilon=None,
            epsilon_query=None,
            delta=self.delta,
            adjacency=self.adjacency,
            sensitivity=privacy.sensitivity(clip, self.adjacency),
            T=uses,
            adversary="a holder of the head's weights",
            mechanism=f"a clip of each row's gradient to norm {clip:.4g} and Gaussian noise of standard deviation "
            f"{noise * clip:.4g} on their sum",
            exclusions=(
                "other rows' gradients come through a body trained on this row's smashed data and label without noise",
                *([tail] if len(deployment.cuts) > 1 else []),
                "queries train nothing",
                "smashed data are sent as they are, and whoever receives them learns what this epsilon does not count",
            ),
        )

    def state_dict(self) -> dict[str, Any]:
        """Clip, noise and guarantee, so that a fresh instance goes on without `bind`; empty before it."""
        if self._scale is None:
            return {}
        return {
            "scale": list(self._scale),
            "guarantee": None if self._guarantee is None else self._guarantee.as_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; what `bind` set is replaced."""
        if state:
            clip, noise = state["scale"]
            self._scale = (clip, noise)
            self._guarantee = None if state["guarantee"] is None else Guarantee.from_dict(state["guarantee"])

# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise as large as a target for unbiased attackers asks for: one sigma, from auxiliary rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from splitguard.api import DEFENSES, BadSetting, Context, Defense, Deployment, NotSupported, generator
from splitguard.privacy.dfil import jacobian_trace, sigma_dfil

__all__ = ["DFIL"]


@DEFENSES.add("dfil")
@dataclass(kw_only=True)
class DFIL(Defense):
    """Sends ``z + N(0, sigma^2 I)`` in place of ``z``, with fresh noise at every sending and sigma from a target.

        sigma^2 = target * mean over auxiliary x of  tr(J^T J) / d

    where J is the Jacobian of the head at x and d the number of input coordinates. With it one release has
    ``1 / dFIL = target`` on average: no unbiased attacker reads an input with a smaller mean squared error a coordinate
    (see `splitguard.privacy.dfil`). T releases leave ``target / T``. At ``target: 0`` it is an identity, to the bit.

    What that is not: a bound for attackers who know what images look like, and all attacks here do; an epsilon, as
    nothing is clipped; a bound for each row, as rows with a larger trace than the mean are easier to read; nor a bound
    for a trained head beyond its start, as sigma stays what the head before training asked for. It is a way to set
    sigma in units of the input, so that cuts and heads can be compared.

    Sigma is the same for all rows. One a row, from its own trace, would tell of the row.

    Args:
        target: the reference, in squared units of the input per coordinate, finite, 0 or more: 0.01 is an error of 0.1
            for inputs in [0, 1].
        rows: auxiliary rows, at most, over which the trace is averaged.
        probes: random directions a row in estimating the trace (Hutchinson); 0 is exact, at the price of d passes.

    Raises:
        BadSetting: for a setting outside its range; from `bind`, if there are no auxiliary rows, or what the head makes
            of them does not depend on them.

    Source: Maeng, Guo, Kariyappa, Suh, Bounding the invertibility of privacy-preserving instance encoding using Fisher
    information, NeurIPS 2023 (arXiv 2305.04146). Differences from their code: the trace is averaged over auxiliary rows
    (there over the test rows, which are private), and one sigma holds in training too (there one a sample). Without
    their regulariser of the head.
    """

    target: float = 0.01
    rows: int = 64
    probes: int = 16
    _sigma: float | None = field(default=None, init=False, repr=False, compare=False)

    paper: ClassVar[str] = "Maeng et al., Bounding the invertibility of instance encoding, NeurIPS 2023"
    per_sample: ClassVar[bool] = True
    noise_law: ClassVar[str] = "gaussian"
    acts: ClassVar[str] = "smashed data"
    null: ClassVar[Mapping[str, Any] | None] = {"target": 0.0}
    breakers = ("white-box-inversion", "inverse-network", "deep-prior")

    def __post_init__(self) -> None:
        if not 0 <= self.target < math.inf:
            raise BadSetting(f"dfil: target must be a finite number, 0 or more; got {self.target!r}")
        if self.rows < 1 or self.probes < 0:
            raise BadSetting(
                f"dfil: rows must be at least 1 and probes at least 0; got rows={self.rows} and probes={self.probes}"
            )

    def bind(self, deployment: Deployment) -> None:
        """Fixes sigma from the head before training and auxiliary rows; nothing of them is private."""
        if self.target == 0:
            self._sigma = 0.0
            return
        inputs = deployment.aux.inputs
        inputs = inputs[torch.linspace(0, len(inputs) - 1, min(self.rows, len(inputs))).round().long()]
        # The probes estimate a number that anybody may know, so their seed is no secret.
        draws = generator(0, "dfil probes")
        traces = jacobian_trace(deployment.head, inputs, probes=self.probes or None, generator=draws)
        trace = float(traces.mean()) if len(traces) else math.nan
        if not 0 < trace < math.inf:
            raise BadSetting(
                f"dfil: the mean trace of J^T J over {len(inputs)} auxiliary rows must be positive and finite; it is "
                f"{trace}. Give auxiliary rows that the head reacts to, or use noise with a sigma of your own"
            )
        self._sigma = sigma_dfil(trace=trace, width=math.prod(deployment.input_shape), target=self.target)

    def reference(self, releases: int = 1) -> float:
        """``1 / dFIL`` of ``releases`` releases of a row: target / T, for unbiased attackers only."""
        return self.target / releases

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        """(N, *cut1): ``smashed`` and fresh noise."""
        return self.released_like(smashed, generator)

    def noise_std(self) -> float:
        """Sigma, in units of the smashed data."""
        if self._sigma is None:
            raise NotSupported("dfil: sigma is set for a deployment; call bind before anything is sent")
        return self._sigma

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        """``smashed`` and fresh noise from ``generator``, drawn on its device."""
        sigma = self.noise_std()
        if sigma == 0:
            return smashed
        unit = torch.randn(smashed.shape, generator=generator, device=generator.device, dtype=smashed.dtype)
        return smashed + sigma * unit.to(smashed.device)

    def state_dict(self) -> dict[str, Any]:
        """Sigma; empty before `bind`."""
        return {} if self._sigma is None else {"sigma": self._sigma}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        if state:
            self._sigma = state["sigma"]

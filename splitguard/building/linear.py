# SPDX-License-Identifier: Apache-2.0
"""Linear regression from smashed data back to inputs, its strength chosen by leaving one row out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from splitguard.errors import BadSetting

__all__ = ["CrossFitted", "LinearInverse"]

#: Strengths tried, relative to the mean squared norm of the centred smashed data.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class LinearInverse:
    """The best linear guess at the input, ``x = mean_x + B (z - mean_z)``, with B from ridge regression.

    Solved in the space of the M rows, so that wide smashed data cost M^2 D, not D^3; the strength is the one with the
    smallest leave-one-out error, which has a closed form. Fitted on noisy releases it allows for their noise.

    Attributes:
        mean_z, mean_x: means over the rows.
        rows: (M, D), the centred smashed data.
        weights: (M, P): ``B (z - mean_z) = weights^T rows (z - mean_z)``.
        strength: the chosen one, of `STRENGTHS`.
        error: its mean squared leave-one-out error a coordinate.
    """

    mean_z: Tensor
    mean_x: Tensor
    rows: Tensor
    weights: Tensor
    strength: float
    error: float

    @classmethod
    def fit(cls, smashed: Tensor, inputs: Tensor) -> LinearInverse:
        """Fits smashed data (M, *cut) to the inputs (M, *in) behind them; M of at least 3.

        Raises:
            BadSetting: for fewer rows, or counts that differ.
        """
        if len(smashed) != len(inputs) or len(inputs) < 3:
            raise BadSetting(
                f"a linear inverse is fitted to at least 3 pairs; got {len(smashed)} smashed, {len(inputs)} inputs"
            )
        z, x = smashed.flatten(1), inputs.flatten(1)
        mean_z, mean_x = z.mean(0), inputs.mean(0)
        rows = z - mean_z
        gram = (rows @ rows.T).double()
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=0)
        turned = vectors.T @ (x - x.mean(0)).double()
        scale = float(gram.diagonal().mean())
        if not scale > 0:  # smashed data that are all alike tell nothing: the mean input is the best guess
            return cls(mean_z, mean_x, rows, torch.zeros_like(x), STRENGTHS[-1], float(x.var(0, correction=0).mean()))
        best: tuple[float, float, Tensor] | None = None
        for strength in STRENGTHS:
            dual = vectors @ (turned / (values + strength * scale)[:, None])
            # The residual of a row left out is that of the full fit over 1 - leverage, and the residual of the full
            # fit is strength * dual; the mean costs every row a leverage of 1/M more.
            leverage = vectors.square() @ (values / (values + strength * scale)) + 1 / len(rows)
            left_out = strength * scale * dual / (1 - leverage).clamp(min=1e-9)[:, None]
            error = float(left_out.square().mean())
            if best is None or error < best[0]:
                best = (error, strength, dual.to(x))
        assert best is not None  # STRENGTHS is not empty
        return cls(mean_z, mean_x, rows, best[2], best[1], best[0])

    def __call__(self, smashed: Tensor) -> Tensor:
        """(N, *in): the linear guess for smashed data (N, *cut), not clipped to the range of inputs."""
        change = (smashed.flatten(1) - self.mean_z) @ self.rows.T @ self.weights
        return self.mean_x + change.view(-1, *self.mean_x.shape)


@dataclass(frozen=True)
class CrossFitted:
    """Several linear inverses, each fitted without one fold of the rows.

    What is trained on top of a linear guess must see guesses as bad as those it will get; a row's own inverse would
    have learned the row by heart. So each row is guessed by the inverse that has not seen it, and a victim by the mean
    of all.

    Attributes:
        parts: one inverse a fold.
        fold: (M,) int64, the fold of each row.
    """

    parts: tuple[Callable[[Tensor], Tensor], ...]
    fold: Tensor

    @classmethod
    def fit(
        cls,
        smashed: Tensor,
        inputs: Tensor,
        fold: Tensor,
        *,
        rows: int,
        inverse: Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]] = LinearInverse.fit,
    ) -> CrossFitted:
        """Fits one inverse for each value in ``fold`` (M,), 0..F-1, to the first ``rows`` pairs outside that fold."""
        folds = int(fold.max()) + 1
        chosen = [torch.nonzero(fold != f).flatten()[:rows] for f in range(folds)]
        return cls(tuple(inverse(smashed[c], inputs[c]) for c in chosen), fold)

    def of_rows(self, smashed: Tensor) -> Tensor:
        """(M, *in): the guess at each fitted row from its smashed data (M, *cut), which may be a new draw."""
        guesses = [part(smashed[self.fold == number]) for number, part in enumerate(self.parts)]
        out = smashed.new_zeros(len(smashed), *guesses[0].shape[1:])
        for number, guess in enumerate(guesses):
            out[self.fold == number] = guess
        return out

    def __call__(self, smashed: Tensor) -> Tensor:
        """(N, *in): the guess at rows that were not fitted."""
        return torch.stack([part(smashed) for part in self.parts]).mean(0)

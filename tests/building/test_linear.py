# SPDX-License-Identifier: Apache-2.0
"""Ridge regression against scikit-learn, and its leave-one-out error against leaving rows out."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from splitguard.building.linear import STRENGTHS, CrossFitted, LinearInverse
from splitguard.errors import BadSetting


def pairs(count: int, features: int, *shape: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smashed data (count, features) that are linear in the inputs (count, *shape), plus noise."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=gen, dtype=torch.float64)
    weights = torch.randn(x[0].numel(), features, generator=gen, dtype=torch.float64)
    z = x.flatten(1) @ weights + noise * torch.randn(count, features, generator=gen, dtype=torch.float64)
    return z, x


@pytest.mark.parametrize("features", [3, 40])
def test_it_is_ridge_regression_with_the_strength_it_chose(features: int) -> None:
    z, x = pairs(12, features, 1, 2, 3)
    fitted = LinearInverse.fit(z, x)
    penalty = fitted.strength * float((z - z.mean(0)).square().sum(1).mean())
    reference = Ridge(alpha=penalty).fit(z.numpy(), x.flatten(1).numpy())
    new, _ = pairs(5, features, 1, 2, 3, seed=9)
    assert torch.allclose(fitted(new).flatten(1), torch.as_tensor(reference.predict(new.numpy())), atol=1e-8)


def test_its_error_is_that_of_leaving_each_row_out_and_the_smallest_of_all_strengths() -> None:
    """Exact for the ridge penalty held fixed; the mean is estimated without the row, as it must be."""
    z, x = pairs(14, 30, 1, 2, 2, noise=1.0)
    fitted = LinearInverse.fit(z, x)
    scale = float((z - z.mean(0)).square().sum(1).mean())
    errors = []
    for strength in STRENGTHS:
        wrong = 0.0
        for i in range(len(z)):
            others = torch.arange(len(z)) != i
            model = Ridge(alpha=strength * scale).fit(z[others].numpy(), x[others].flatten(1).numpy())
            wrong += float((torch.as_tensor(model.predict(z[i : i + 1].numpy())) - x[i].flatten()).square().mean())
        errors.append(wrong / len(z))
    assert fitted.strength == STRENGTHS[errors.index(min(errors))]
    assert fitted.error == pytest.approx(min(errors), rel=1e-6)


def test_an_exact_linear_map_is_inverted() -> None:
    z, x = pairs(50, 8, 1, 2, 2, noise=0.0)
    new = (z[:1] + z[1:2]) / 2
    assert torch.allclose(LinearInverse.fit(z, x)(new), (x[:1] + x[1:2]) / 2, atol=1e-3)


def test_a_row_is_guessed_by_an_inverse_that_has_not_seen_it() -> None:
    z, x = pairs(12, 20, 1, 2, 2)
    fold = torch.arange(12) % 3
    guess = CrossFitted.fit(z, x, fold, rows=100).of_rows(z)
    changed = x.clone()
    changed[4] = 1 - changed[4]
    again = CrossFitted.fit(z, changed, fold, rows=100).of_rows(z)
    assert torch.equal(guess[fold == 1], again[fold == 1])
    assert not torch.allclose(guess[fold == 0], again[fold == 0])


def test_others_are_guessed_by_the_mean_of_all() -> None:
    z, x = pairs(12, 20, 1, 2, 2)
    fitted = CrossFitted.fit(z, x, torch.arange(12) % 3, rows=5)
    assert [len(p.rows) for p in fitted.parts if isinstance(p, LinearInverse)] == [5, 5, 5]
    assert torch.allclose(fitted(z), torch.stack([p(z) for p in fitted.parts]).mean(0))


def test_three_pairs_are_the_least() -> None:
    z, x = pairs(3, 4, 1, 2, 2)
    LinearInverse.fit(z, x)
    with pytest.raises(BadSetting, match="at least 3 pairs; got 2 smashed, 2 inputs"):
        LinearInverse.fit(z[:2], x[:2])
    with pytest.raises(BadSetting, match="got 3 smashed, 2 inputs"):
        LinearInverse.fit(z, x[:2])


def test_smashed_data_that_are_all_alike_say_nothing_but_the_mean() -> None:
    _, x = pairs(20, 3, 2, 4)
    for smashed in (torch.zeros(20, 5), torch.full((20, 5), 0.3, dtype=torch.float64)):
        found = LinearInverse.fit(smashed.to(x), x)
        assert torch.equal(found(smashed.to(x)), x.mean(0).expand(20, 2, 4))
        assert found.error == pytest.approx(float(x.flatten(1).var(0, correction=0).mean()))

# SPDX-License-Identifier: Apache-2.0
"""The local inverse: ridge regression over places, exact where it can be, and what is left over for all of a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn.functional import pad

from splitguard.building import local
from splitguard.building.linear import LinearInverse
from splitguard.building.local import STRENGTHS, LocalInverse, TwoScaleInverse
from splitguard.errors import BadSetting
from tests.attacks.views import smooth


def convolved(images: Tensor, channels: int, *, stride: int = 1, size: int = 3, seed: int = 0) -> Tensor:
    """What a convolution of fixed weights makes of images, padded to their size."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(images.shape[1], channels, size, padding=size // 2).to(images)
    with torch.no_grad():
        out: Tensor = conv(images)[:, :, ::stride, ::stride]
    return out


def by_hand(smashed: Tensor, reach: int) -> np.ndarray:
    """(N h w, (2 reach + 1)^2 C'): the neighbourhood of each place, one place after the other."""
    side = 2 * reach + 1
    near = pad(smashed - smashed.mean((0, 2, 3), keepdim=True), [reach] * 4)
    _, _, height, width = smashed.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    rows = [row[:, i : i + side, j : j + side].flatten() for row in near for i, j in places]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize(("channels", "reach"), [(2, 2), (50, 1)])
def test_it_is_ridge_regression_over_places_with_the_strength_it_chose(channels: int, reach: int) -> None:
    x = smooth(20).double()
    z = convolved(x, channels).relu() + 0.05 * torch.randn(20, channels, 8, 8).double()
    fitted = LocalInverse.fit(z, x)
    assert fitted.reach == reach
    near, pixels = by_hand(z, reach), x.flatten().numpy()
    aside = 2 * 64  # the places of the tenth that chooses
    level = near[aside:].var(0).mean()
    errors = []
    for strength in STRENGTHS:
        model = Ridge(alpha=strength * level * len(near[aside:])).fit(near[aside:], pixels[aside:])
        errors.append(float(np.square(model.predict(near[:aside]) - pixels[:aside]).mean()))
        if strength == fitted.strength:
            assert np.allclose(fitted(z).flatten().numpy(), model.predict(near), atol=1e-6)
    assert fitted.strength == STRENGTHS[int(np.argmin(errors))]


@pytest.mark.parametrize(("stride", "channels", "size"), [(1, 16, 3), (2, 32, 5)])
def test_a_convolution_of_enough_channels_is_inverted(stride: int, channels: int, size: int) -> None:
    x, new = smooth(60), smooth(5, seed=9)
    fitted = LocalInverse.fit(convolved(x, channels, stride=stride, size=size), x)
    assert fitted.scale == stride
    assert torch.allclose(fitted(convolved(new, channels, stride=stride, size=size)), new, atol=1e-4)


def test_each_pixel_is_guessed_from_what_lies_near_it_alone() -> None:
    x = smooth(30)
    z = convolved(x, 4)
    changed = z.clone()
    changed[:, :, 0, 0] += 1
    fitted = LocalInverse.fit(z, x)
    moved = (fitted(changed) - fitted(z)).abs().amax((0, 1)) > 0
    assert moved[:3, :3].all()
    assert not moved[3:].any()
    assert not moved[:, 3:].any()


def test_few_places_are_fitted_to_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = smooth(60)
    z = convolved(x, 4).relu()
    whole = LocalInverse.fit(z, x)
    monkeypatch.setattr(local, "CHUNK", 7)
    assert torch.allclose(LocalInverse.fit(z, x)(z), whole(z), atol=1e-5)
    monkeypatch.setattr(local, "PLACES", 20 * 64)
    few, same = LocalInverse.fit(z, x), x.clone()
    same[26:] = 0  # 6 are kept aside, 20 fitted to
    assert torch.equal(LocalInverse.fit(z, same)(z), few(z))


def test_smashed_data_that_tell_nothing_give_the_mean_pixel() -> None:
    x, alike = smooth(12), torch.ones(12, 3, 8, 8)
    assert torch.allclose(LocalInverse.fit(alike, x)(alike[:2]), x[1:].mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("cut", "inputs", "fits"),
    [
        ((8, 28, 28), (1, 28, 28), True),
        ((8, 14, 14), (1, 28, 28), True),
        ((8, 5, 5), (1, 28, 28), False),
        ((8, 14, 28), (1, 28, 28), False),
        ((8, 56, 56), (1, 28, 28), False),
        ((84,), (1, 28, 28), False),
        ((257, 28, 28), (1, 28, 28), False),
        ((8, 28, 28), (784,), False),
    ],
)
def test_a_place_has_to_stand_for_a_square_and_have_few_channels(
    cut: tuple[int, ...], inputs: tuple[int, ...], fits: bool
) -> None:
    assert LocalInverse.fits(cut, inputs) is fits
    if not fits:
        with pytest.raises(BadSetting, match="at most 256 channels in which each place stands for a square of pixels"):
            LocalInverse.fit(torch.rand(4, *cut), torch.rand(4, *inputs))


def test_three_pairs_are_the_least() -> None:
    x = smooth(3)
    LocalInverse.fit(convolved(x, 4), x)
    with pytest.raises(BadSetting, match="at least 3 pairs; got 2 smashed, 2 inputs"):
        LocalInverse.fit(convolved(x, 4)[:2], x[:2])
    with pytest.raises(BadSetting, match="got 3 smashed, 2 inputs"):
        LocalInverse.fit(convolved(x, 4), x[:2])


def test_all_of_a_row_explains_what_its_places_leave_over() -> None:
    """How light an image is, is told in one corner; what is in it, at each place."""

    def sent(images: Tensor) -> Tensor:
        light = images.mean((1, 2, 3), keepdim=True)
        told = torch.zeros_like(images)
        told[:, :, :1, :1] = light
        return torch.cat([convolved(images - light, 12), told], 1)

    x, new = smooth(200, seed=50), smooth(20)
    x, new = (part * torch.rand(len(part), 1, 1, 1, generator=torch.Generator().manual_seed(1)) for part in (x, new))
    z, seen = sent(x), sent(new)
    both, near, whole = TwoScaleInverse.fit(z, x, rows=40), LocalInverse.fit(z, x), LinearInverse.fit(z[:40], x[:40])
    left = x[:40] - near(z[:40])
    assert torch.equal(both(seen), near(seen) + LinearInverse.fit(z[:40], left)(seen))
    error = [float((guess(seen) - new).square().mean()) for guess in (both, near, whole)]
    assert error[0] < 0.5 * min(error[1:]), error

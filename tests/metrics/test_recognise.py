# SPDX-License-Identifier: Apache-2.0
"""An outside classifier knows real images, does not know noise, and is the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from sklearn.datasets import load_digits

from splitguard.errors import BadSetting
from splitguard.metrics import train_outsider

DIGITS = load_digits()
IMAGES = torch.from_numpy(DIGITS.images / 16).float()[:, None]
LABELS = torch.from_numpy(DIGITS.target)


def test_it_recognises_images_and_not_noise(rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    with rng_untouched():
        outsider = train_outsider(IMAGES[:600], LABELS[:600], classes=10)
    assert outsider is not None
    unseen, named = IMAGES[1000:1400], LABELS[1000:1400]
    assert float(outsider.recognises(unseen, named).double().mean()) > 0.85
    noise = torch.rand(unseen.shape, generator=torch.Generator().manual_seed(0))
    assert float(outsider.recognises(noise, named).double().mean()) < 0.1 + 4 * (0.1 * 0.9 / 400) ** 0.5
    again = train_outsider(IMAGES[:600], LABELS[:600], classes=10)
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(outsider.parameters(), again.parameters(), strict=True))


def test_where_it_could_recognise_nothing_it_is_missing() -> None:
    assert train_outsider(IMAGES[:20], torch.zeros(20, dtype=torch.int64), classes=10) is None
    assert train_outsider(IMAGES[:0], LABELS[:0], classes=10) is None
    assert train_outsider(IMAGES[:20, :, :3], LABELS[:20], classes=10) is None
    with pytest.raises(BadSetting, match="one label an image; got 19 for 20 images"):
        train_outsider(IMAGES[:20], LABELS[:19], classes=10)

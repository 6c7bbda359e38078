# SPDX-License-Identifier: Apache-2.0
"""UnSplit's own schedule as it is run beside ours: side by side is one seed after the other, and it finds images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import reference_unsplit
from benchmarks.reference_unsplit import descent, reference
from splitguard.engine.fresh import fresh_copy
from splitguard.metrics import psnr
from splitguard.seeding import drawing
from tests.attacks.views import smooth


def conv(seed: int) -> nn.Module:
    """A convolution beside whose output the prior hardly counts."""
    with drawing(seed):
        head = nn.Conv2d(1, 4, 3, padding=1).double()
    head.weight.data *= 10
    return head


def view(head: nn.Module, images: Tensor) -> Any:
    """What the reference asks of a view, in double precision."""
    ids = torch.arange(len(images))
    sent = head(images.double()).detach()
    return SimpleNamespace(
        ids=ids,
        input_shape=images.shape[1:],
        releases=SimpleNamespace(last=lambda few: SimpleNamespace(smashed=sent[few])),
        blank_head=lambda generator: fresh_copy(head, generator),
    )


@pytest.fixture
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double")
def test_seeds_side_by_side_are_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_unsplit, "STEPS", 20)
    views = [view(conv(seed), smooth(3, seed=seed)) for seed in (1, 2, 3)]
    together, clones = reference(views, 2, rounds=4)
    assert together.shape == (3, 2, *views[0].input_shape)
    for one, found, clone in zip(views, together, clones, strict=True):
        alone, (other,) = reference([one], 2, rounds=4)
        assert torch.allclose(found, alone[0], atol=1e-9)
        for weight, same in zip(clone.parameters(), other.parameters(), strict=True):
            assert torch.allclose(weight, same, atol=1e-9)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.usefixtures("_double")
def test_the_second_image_starts_from_the_first_ones_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_unsplit, "STEPS", 20)
    seen = view(conv(1), smooth(3))
    first, second = reference([seen], 2, rounds=4)[0][0]
    backwards = view(conv(1), smooth(3).flip(0)[1:])
    assert not torch.allclose(reference([backwards], 1, rounds=4)[0][0, 0], second, atol=1e-6)
    assert torch.allclose(reference([seen], 1, rounds=4)[0][0, 0], first, atol=1e-12)


@pytest.mark.usefixtures("_double")
def test_with_a_clone_that_is_right_the_image_is_found() -> None:
    head, image = conv(1), smooth(1).double()
    weights = torch.optim.Adam(head.parameters(), lr=0.0, amsgrad=True)
    found = descent(head, weights, head(image).detach(), image.shape[1:], rounds=8)
    assert float(psnr(found, image)) > 6 + float(psnr(torch.full_like(image, 0.5), image))

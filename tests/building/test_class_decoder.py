# SPDX-License-Identifier: Apache-2.0
"""The decoder that begins at class means: what it answers untrained, and whose statistics it goes by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from splitguard.building.class_decoder import ClassDecoder
from tests.attacks.views import gen, rows_of, smooth

AUX = replace(rows_of(smooth(12)), labels=torch.arange(12) % 2)


def decoder(cut: tuple[int, ...], classes: int = 3) -> ClassDecoder:
    return ClassDecoder(cut, AUX, classes, width=4, blocks=0, generator=gen())


@pytest.mark.parametrize("cut", [(3, 4, 4), (10,), (5, 2)])
def test_untrained_it_answers_with_means(cut: tuple[int, ...]) -> None:
    """Of the class; of all classes where the class has no row, or no label is told."""
    made, overall = decoder(cut), AUX.inputs.mean(0)
    z = torch.randn(4, *cut, generator=gen(1))
    ones = AUX.inputs[AUX.labels == 1].mean(0)
    torch.testing.assert_close(made(z, torch.tensor([1, 2, 1, 2])), torch.stack([ones, overall, ones, overall]))
    torch.testing.assert_close(made(z, None), overall.expand(4, -1, -1, -1))


@pytest.mark.parametrize("cut", [(3, 4, 4), (10,)])
def test_no_scale_tells_one_batch_from_another(cut: tuple[int, ...]) -> None:
    made = decoder(cut)
    torch.nn.init.normal_(made.decoder.leave.weight, generator=gen(3))
    z, labels = torch.randn(40, *cut, generator=gen(1)), torch.zeros(40, dtype=torch.int64)
    scaled = 3 * z + 5
    torch.testing.assert_close(made(scaled, labels), made(z, labels), rtol=1e-3, atol=1e-3)
    made.eval()
    made.watch(scaled)
    in_use = made(scaled[:7], labels[:7])
    made.train()
    torch.testing.assert_close(in_use, made(scaled, labels)[:7], rtol=1e-3, atol=1e-3)


def test_running_statistics_follow_the_victims() -> None:
    made = decoder((2, 3, 3))
    first, then = (torch.randn(50, 2, 3, 3, generator=gen(s), dtype=torch.float64) * (s + 1) + s for s in (1, 2))
    made.double()
    made.watch(first)
    torch.testing.assert_close(made.mean[0, :, 0, 0], first.mean((0, 2, 3)))
    made.watch(then)
    torch.testing.assert_close(made.mean[0, :, 0, 0], 0.9 * first.mean((0, 2, 3)) + 0.1 * then.mean((0, 2, 3)))
    variance = 0.9 * first.var((0, 2, 3), unbiased=False) + 0.1 * then.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(made.var[0, :, 0, 0], variance)

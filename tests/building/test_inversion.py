# SPDX-License-Identifier: Apache-2.0
"""The inverse of a stand-in: what it is shown of victims, what it is trained on, and that it inverts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import View
from splitguard.building.inversion import SIDE_BY_SIDE, Inverse, Sent, side_by_side, train_inverse
from splitguard.errors import BadSetting
from splitguard.metrics import mse
from tests.attacks.views import Centre, Noise, gen, network, sent_view, smooth

CONV = (Centre(), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
AUX = smooth(80, seed=50)


def trained(view: View, client: nn.Module, *, times: int = 1, steps: int = 60) -> Inverse:
    return train_inverse(view, client, AUX, times=times, steps=steps, width=8, batch_size=16, generator=gen())


def test_releases_of_one_head_are_averaged_and_others_are_not() -> None:
    x, heads = smooth(3), [network(0, CONV), network(1, CONV)]
    for made_by, adaptive, times in (
        ([1, 1, 1], True, 3),
        ([1, 1, 1], False, 1),
        ([0, 1, 1], True, 1),
        ([-1], True, 1),
    ):
        view = sent_view(x, heads, [made_by] * 3, defense=Noise(0.1), adaptive=adaptive)
        sent, rows = Sent.of(view), view.releases
        each = [rows.smashed[rows.ids == i] for i in view.ids]
        want = torch.stack([own.mean(0) if times > 1 else own[-1] for own in each])
        assert sent.times == times
        torch.testing.assert_close(sent.smashed, want)


def test_side_by_side_each_coordinate_has_its_smallest_value_first() -> None:
    flat = torch.tensor([[[3.0, 10.0], [1.0, 30.0], [2.0, 20.0]]])
    assert torch.equal(side_by_side(flat), torch.tensor([[1.0, 10.0, 2.0, 20.0, 3.0, 30.0]]))
    maps = torch.rand(2, 3, 4, 5, 6, generator=gen())
    put = side_by_side(maps)
    assert put.shape == (2, 12, 5, 6)
    assert torch.equal(put[:, :4], maps.amin(1))
    assert torch.equal(put[:, -4:], maps.amax(1))
    assert torch.equal(side_by_side(maps[:, [2, 0, 1]]), put)
    assert side_by_side(maps[..., 0]).shape == (2, 12, 5)


def test_the_last_releases_that_all_victims_have_are_stacked() -> None:
    x, head = smooth(2), network(0, CONV)
    for counts, times in (((3, 4), 3), ((SIDE_BY_SIDE + 2, SIDE_BY_SIDE + 1), SIDE_BY_SIDE)):
        view = sent_view(x, [head], [[0] * n for n in counts], defense=Noise(0.1))
        sent, rows = Sent.stacked(view), view.releases
        last = torch.stack([rows.smashed[rows.ids == i][-times:] for i in view.ids])
        assert (sent.times, sent.apart) == (times, True)
        assert torch.equal(sent.smashed, side_by_side(last))
        torch.testing.assert_close(sent.mean(sent.smashed), last.mean(1))


def test_where_there_is_no_mean_nothing_is_stacked() -> None:
    x, heads = smooth(3), [network(0, CONV), network(1, CONV)]
    for made_by, defense, adaptive in (
        ([1], Noise(0.1), True),
        ([0, 1, 1], Noise(0.1), True),
        ([1, 1, 1], Noise(0.1), False),
        ([1, 1, 1], None, True),  # releases that repeat each other
    ):
        view = sent_view(x, heads, [made_by] * 3, defense=defense, adaptive=adaptive)
        sent, mean = Sent.stacked(view), Sent.of(view)
        assert (sent.times, sent.apart) == (1, False)
        assert torch.equal(sent.smashed, mean.smashed)
        assert sent.mean(sent.smashed) is sent.smashed


def test_before_the_first_step_it_is_the_mean_image_and_then_it_inverts() -> None:
    x, head = smooth(12), network(0, CONV)
    view = sent_view(x, [head], [[0]] * 12)
    mean = AUX.mean(0).expand_as(x)
    first, later = trained(view, head, steps=0)(head(x)), trained(view, head)(head(x))
    assert torch.equal(first, mean)
    assert float(mse(later, x).mean()) < 0.3 * float(mse(mean, x).mean())
    assert float(later.min()) >= 0
    assert float(later.max()) <= 1


def test_it_is_trained_on_means_of_as_many_draws_as_it_will_be_shown() -> None:
    """The defense tells how many rows it has drawn for: each step draws its batch ``times`` times."""

    class Counted(Noise):
        drawn = 0

        def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
            self.drawn += len(smashed)
            return super().released_like(smashed, generator)

    defense = Counted(0.1)
    view = sent_view(smooth(2), [network(0, CONV)], [[0]] * 2, defense=defense)
    for times in (1, 3):
        defense.drawn = 0
        trained(view, network(0, CONV), times=times, steps=2)
        assert defense.drawn == times * (len(AUX) + 2 * 16)


def test_inputs_that_are_no_images_are_refused() -> None:
    view = sent_view(smooth(2).flatten(2), [nn.Flatten()], [[0]] * 2)
    with pytest.raises(BadSetting, match="decoders make images"):
        trained(view, nn.Flatten())

# SPDX-License-Identifier: Apache-2.0
"""Every layer that attacks build takes part: none is left out of the forward pass, and none is overwritten.

The published critic of FSHA has both: its first layers for shallow cuts are made, and then replaced by those of the
next branch, so that they never see a tensor. Such a network runs, learns, and is another one than it says.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from splitguard.building.class_decoder import ClassDecoder
from splitguard.building.critics import make_critic
from splitguard.building.decoders import make_decoder
from splitguard.building.pilots import make_pilot
from tests.attacks.views import gen, rows_of, smooth
from tests.building.test_critics import SHAPES
from tests.building.test_pilots import CASES

#: Of smashed data: maps, one of a single pixel, and what is no map.
CUTS = [(3, 8, 8), (4, 6, 6), (2, 1, 1), (20,), (6, 4)]


def left_out(networks: nn.Module, loss: Tensor) -> list[str]:
    """The parameters of which ``loss`` has no gradient but 0."""
    networks.zero_grad()
    torch.autograd.backward(loss)
    return [name for name, p in networks.named_parameters() if p.grad is None or not bool(p.grad.any())]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("blocks", [0, 2])
def test_every_parameter_of_a_critic_is_trained(shape: tuple[int, ...], classes: int, blocks: int) -> None:
    critic = make_critic(shape, width=8, blocks=blocks, classes=classes, generator=gen())
    rows, labels = torch.randn(6, *shape, generator=gen(1)), torch.arange(6) % 3
    assert left_out(critic, critic(rows, labels).sum()) == []


@pytest.mark.parametrize(
    ("shape", "sides"), [((3, 8, 8), (4, 4)), ((2, 25, 25), (4, 4)), ((1, 7, 12), (4, 6)), ((5, 1, 1), (1, 1))]
)
def test_the_first_layers_of_a_critic_bring_every_map_down_to_four_pixels(
    shape: tuple[int, ...], sides: tuple[int, int]
) -> None:
    """A stem that the next branch overwrote would leave no parameter behind, and the map as large as it came."""
    critic = make_critic(shape, width=8, blocks=2, generator=gen())
    seen: list[tuple[int, ...]] = []
    for part in critic.body:
        if list(part.children()):
            part.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[2:])))
    critic(torch.randn(1, *shape, generator=gen(1)))
    assert seen == [sides] * 2


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("image", [(1, 12, 12), (3, 8, 8)])
def test_every_parameter_of_a_decoder_is_trained_once_the_last_layer_has_left_zero(
    cut: tuple[int, ...], image: tuple[int, int, int]
) -> None:
    decoder = make_decoder(cut, image, width=8, blocks=1, generator=gen())
    smashed, guess = torch.randn(6, *cut, generator=gen(1)), torch.rand(6, *image, generator=gen(2))
    truth = torch.rand(6, *image, generator=gen(3))
    first = left_out(decoder, (decoder(smashed, guess) - truth).square().mean())
    assert not any(name.startswith("leave") for name in first)
    torch.optim.SGD(decoder.parameters(), lr=0.1).step()
    assert left_out(decoder, (decoder(smashed, guess) - truth).square().mean()) == []


@pytest.mark.parametrize("cut", CUTS)
def test_every_parameter_of_a_decoder_by_class_is_trained(cut: tuple[int, ...]) -> None:
    aux = replace(rows_of(smooth(12)), labels=torch.arange(12) % 2)
    decoder = ClassDecoder(cut, aux, 2, width=8, blocks=1, generator=gen())
    nn.init.normal_(decoder.decoder.leave.weight, generator=gen(4))
    smashed = torch.randn(12, *cut, generator=gen(1))
    assert left_out(decoder, (decoder(smashed, aux.labels) - aux.inputs).square().mean()) == []


@pytest.mark.parametrize(("image", "cut"), CASES)
def test_every_parameter_of_a_pilot_and_its_inverse_is_trained(image: tuple[int, ...], cut: tuple[int, ...]) -> None:
    pilot, inverse = make_pilot(image, cut, width=4, generator=gen())
    given = torch.rand(4, *image, generator=gen(1)) * 2 - 1
    assert left_out(nn.ModuleList([pilot, inverse]), (inverse(pilot(given)) - given).square().mean()) == []

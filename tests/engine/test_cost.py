# SPDX-License-Identifier: Apache-2.0
"""Costs against closed forms, and the parts against the whole."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import nn

from splitguard.engine.cost import Share, counting, measure
from splitguard.engine.cut import legal_cuts, split
from splitguard.models import make_model


def test_parameters_flops_and_bytes_in_closed_form() -> None:
    module = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 5, 3, padding=1), relu=nn.ReLU(), flat=nn.Flatten(), fc=nn.Linear(5 * 36, 7, bias=False),
            out=nn.Linear(7, 2),
        )
    )  # fmt: skip
    cost = measure(split(module, ("conv", "fc")), (3, 6, 6))
    assert cost.head == Share(params=3 * 5 * 9 + 5, flops=2 * 3 * 5 * 9 * 36)
    assert cost.body == Share(params=5 * 36 * 7, flops=2 * 5 * 36 * 7)
    assert cost.tail == Share(params=7 * 2 + 2, flops=2 * 7 * 2)
    assert cost.bytes == (4 * 5 * 36, 4 * 7)
    assert cost.client_params == cost.head.params + 16
    assert cost.client_flops == cost.head.flops + 28
    assert (cost.server_params, cost.server_flops) == (cost.body.params, cost.body.flops)


@pytest.mark.parametrize("fast", [True, False])
def test_attention_counts(fast: bool) -> None:
    width, tokens = 8, 5
    layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=12, batch_first=True, dropout=0.1)
    module = nn.Sequential(OrderedDict(layer=layer, flat=nn.Flatten(), fc=nn.Linear(width * tokens, 3)))
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        cost = measure(split(module, "layer"), (tokens, width))
        assert torch.backends.mha.get_fastpath_enabled() is fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    projections = 4 * width * width  # query, key, value and output
    products = 2 * tokens * width  # scores, and their average of values
    dense = 2 * width * 12
    assert cost.head.flops == 2 * tokens * (projections + products + dense)


@pytest.mark.parametrize("name", ["lenet", "resnet20", "mlp"])
def test_at_every_cut_the_parts_are_the_whole_and_agree_with_the_list_of_cuts(name: str) -> None:
    module = make_model(name, input_shape=(3, 16, 16), classes=4, seed=0)
    with counting(module) as counter:
        module(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
        whole = counter.get_total_flops()
    params = sum(p.numel() for p in module.parameters())
    for cut in legal_cuts(module, (3, 16, 16)):
        cost = measure(split(module, cut.name), (3, 16, 16))
        assert cost.tail is None
        assert cost.client_flops + cost.server_flops == whole
        assert cost.client_params + cost.server_params == params
        assert (cost.client_flops, cost.client_params, cost.bytes) == (
            cut.client_flops,
            cut.client_params,
            (cut.bytes,),
        )


def test_measuring_leaves_no_trace(rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    module = make_model("resnet20", input_shape=(1, 8, 8), classes=3, seed=0)
    network = split(module, "layer1").train()
    network.body.eval()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    with rng_untouched():
        measure(network, (1, 8, 8))
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert network.training
    assert all(m.training for m in network.head.modules())
    assert not any(m.training for m in network.body.modules())
    assert torch.is_grad_enabled()

# SPDX-License-Identifier: Apache-2.0
"""A split network computes what the whole one does, to the bit, wherever it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from splitguard.compat import torchvision
from splitguard.engine.cut import legal_cuts
from splitguard.models import make_model
from splitguard.seeding import drawing
from tests.engine.exactly import Cuts, assert_splits_exactly, cuts_and_pairs, inputs, small_vit, vision


def test_lenet_with_dropout_at_every_cut_and_every_pair() -> None:
    def make() -> nn.Module:
        return make_model({"lenet": {"dropout": 0.4}}, input_shape=(1, 12, 12), classes=4, seed=0)

    cuts = cuts_and_pairs(make(), (1, 12, 12))
    assert {"conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "dropout1", "fc2", "dropout2"} <= set(cuts)
    assert ("conv1", "fc1") in cuts
    assert_splits_exactly(make, inputs(3, 1, 12, 12), cuts)


@pytest.mark.slow
def test_resnet_with_batch_norm_at_every_cut_and_some_pairs() -> None:
    def make() -> nn.Module:
        return make_model("resnet20", input_shape=(3, 8, 8), classes=4, seed=0)

    cuts = cuts_and_pairs(make(), (3, 8, 8), every=29)
    assert {"conv1", "norm1", "relu", "layer1.0", "layer1", "layer3", "flatten"} <= set(cuts)
    assert_splits_exactly(make, inputs(4, 3, 8, 8), cuts)


@pytest.mark.slow
def test_vision_transformer_with_root_parameters_at_every_cut_and_some_pairs() -> None:
    assert_splits_exactly(small_vit, inputs(2, 3, 16, 16), cuts_and_pairs(small_vit(), (3, 16, 16), every=5))


def test_torchvision_resnet18_at_sampled_cuts() -> None:
    cuts: Cuts = ["conv1", "bn1", "layer1.0.relu_1", ("layer2.0.add", "layer4"), "flatten"]
    assert_splits_exactly(vision("resnet18"), inputs(2, 3, 32, 32), cuts)


def test_torchvision_mobilenet_with_shared_activations_at_sampled_cuts() -> None:
    names = [c.name for c in legal_cuts(vision("mobilenet_v3_small")(), (3, 32, 32))]
    assert len(names) == 58
    cuts: Cuts = [*names[3::13], ("features.1", "classifier.1")]
    assert_splits_exactly(vision("mobilenet_v3_small"), inputs(2, 3, 32, 32), cuts)


@pytest.mark.slow
def test_torchvision_efficientnet_with_stochastic_depth_at_sampled_cuts() -> None:
    make = vision("efficientnet_b0")
    functions = [(p, "stochastic_depth") for p, m in make().named_modules() if type(m).__name__ == "StochasticDepth"]
    cuts: Cuts = ["features.0.0", "features.2", ("features.3.0", "features.6.1"), "flatten"]
    assert_splits_exactly(make, inputs(4, 3, 32, 32), cuts, functions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("vgg11", ["features.0", "features.1", ("features.9", "classifier.1"), "classifier.5"]),
        ("vit_b_16", ["cat", "encoder.dropout", ("encoder.layers.encoder_layer_1", "encoder"), "getitem"]),
        ("densenet121", ["features.conv0", ("features.denseblock1", "features.transition3.norm"), "relu"]),
        ("swin_t", ["features.0", ("features.1.0", "features.5.2.add"), "permute"]),
    ],
)
def test_large_torchvision_networks_at_sampled_cuts(name: str, cuts: Cuts) -> None:
    def make() -> nn.Module:
        with drawing(0):
            extra = {"image_size": 32, "dropout": 0.1} if name == "vit_b_16" else {}
            module: nn.Module = torchvision().models.get_model(name, weights=None, num_classes=10, **extra)
        return module

    if name == "swin_t":
        modes: tuple[bool, ...] = (False,)  # a swin block drops depth by one layer twice, which the hooks do not know
    else:
        modes = (True, False)
    assert_splits_exactly(make, inputs(2, 3, 32, 32), cuts, modes=modes)


class Unit(nn.Module):
    """One of several shapes of layer, chosen by number."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=kind % 2 == 0)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.3, inplace=kind == 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            return self.norm(self.relu(self.conv(x)))  # type: ignore[no-any-return]
        if self.kind == 1:
            return self.drop(self.conv(x)) + x  # type: ignore[no-any-return]
        if self.kind == 2:
            normed = self.norm(x)
            kept = self.relu(normed)  # which overwrites it
            out = self.conv(kept)
            out += kept
            return out + normed  # type: ignore[no-any-return]
        if self.kind == 3:
            out = self.drop(self.conv(x))
            out.mul_(0.5)  # the result is not used, the effect is
            return F.relu(out, inplace=True)
        return F.dropout(self.relu(self.conv(x)), 0.5, self.training).view(x.shape[0], 2, x.size(2), -1)


@settings(max_examples=12)
@given(kinds=st.lists(st.integers(0, 4), min_size=1, max_size=4), mode=st.booleans())
def test_any_chain_of_layers_at_every_cut_and_pair(kinds: list[int], mode: bool) -> None:
    def make() -> nn.Module:
        with drawing(0):
            return nn.Sequential(nn.Conv2d(1, 2, 1), *(Unit(k) for k in kinds), nn.Flatten(), nn.Linear(32, 3))

    functions = [(str(i + 1), "dropout") for i, k in enumerate(kinds) if k == 4]
    cuts = cuts_and_pairs(make(), (1, 4, 4), every=11)
    assert len(cuts) >= len(kinds) + 1
    assert_splits_exactly(make, inputs(3, 1, 4, 4), cuts, functions, modes=(mode,))

# SPDX-License-Identifier: Apache-2.0
"""Networks by name: their layers, their shapes, their seeds, and what is refused."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from splitguard.compat import torchvision
from splitguard.engine.cut import legal_cuts
from splitguard.errors import BadSetting, DataUnavailable, NotSupported, SplitguardError, UnknownName
from splitguard.models import MODELS, make_model, model_spec
from splitguard.models._normalise import IMAGENET, Normalise

SHAPES = [(1, 25, 25), (1, 28, 28), (3, 32, 32)]


def children(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["cnn", "lenet", "mlp", "resnet18", "resnet20"])
def test_every_registered_network_takes_small_images_and_has_legal_cuts(name: str, shape: tuple[int, ...]) -> None:
    assert list(MODELS) == ["cnn", "lenet", "mlp", "resnet18", "resnet20"]
    module = make_model(name, input_shape=shape, classes=7, seed=0).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = module(x)
    assert logits.shape == (2, 7)
    assert not torch.equal(logits[0], logits[1])
    if shape == SHAPES[0]:
        assert set(children(module)[:-1]) <= {c.name for c in legal_cuts(module, shape)}


def test_layers_are_named_as_documented() -> None:
    def names(spec: Any) -> str:
        return " ".join(children(make_model(spec, input_shape=(3, 32, 32), classes=10, seed=0)))

    assert names("lenet") == "normalise conv1 pool1 conv2 pool2 flatten fc1 fc2 fc3"
    assert names({"lenet": {"dropout": 0.1}}).endswith("fc1 dropout1 fc2 dropout2 fc3")
    assert names("cnn") == (
        "normalise conv11 relu11 conv12 relu12 pool1 conv21 relu21 conv22 relu22 pool2 conv31 relu31 conv32 relu32 "
        "pool3 flatten fc1 relu fc2"
    )
    assert names("resnet18") == "normalise conv1 norm1 relu layer1 layer2 layer3 layer4 avgpool flatten fc"
    assert names({"mlp": {"widths": [9, 8, 7]}}) == "normalise flatten fc1 fc2 fc3 out"


def test_parameters_in_closed_form() -> None:
    def count(spec: Any, shape: tuple[int, ...]) -> int:
        return sum(p.numel() for p in make_model(spec, input_shape=shape, classes=10, seed=0).parameters())

    lenet = (25 * 1 + 1) * 8 + (25 * 8 + 1) * 16 + (16 * 7 * 7 + 1) * 120 + 121 * 84 + 85 * 10
    assert count("lenet", (1, 28, 28)) == lenet
    convolutions = (27 + 1) * 64 + (576 + 1) * 64 + (576 + 1) * 128 + 3 * (1152 + 1) * 128
    assert count("cnn", (3, 32, 32)) == convolutions + (128 * 16 + 1) * 512 + 513 * 10
    assert count({"mlp": {"widths": [5]}}, (6,)) == 7 * 5 + 6 * 10
    assert count("resnet18", (3, 32, 32)) == 11_173_962  # the count commonly reported for this network on CIFAR-10
    # He et al., section 4.2, give 0.27 million; theirs has no parameters in its two shortcuts.
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert count("resnet20", (3, 32, 32)) == 269_722 + shortcuts
    assert count({"resnet20": {"norm": "group"}}, (3, 32, 32)) == 269_722 + shortcuts


def test_cifar_stem_keeps_the_size_of_the_image() -> None:
    module = make_model("resnet18", input_shape=(3, 32, 32), classes=10, seed=0)
    shapes = {c.name: c.shape for c in legal_cuts(module, (3, 32, 32))}
    assert shapes["relu"] == shapes["layer1"] == (64, 32, 32)
    assert shapes["layer4"] == (512, 4, 4)


@pytest.mark.parametrize("spec", [{"lenet": {"dropout": 0.3}}, "resnet20", "mobilenet_v3_small"])
def test_weights_depend_on_the_seed_alone(spec: Any, rng_untouched: Callable[[], AbstractContextManager[None]]) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return make_model(spec, input_shape=(3, 32, 32), classes=4, seed=seed).state_dict()

    with rng_untouched():
        one, other = weights(0), weights(1)
        again = weights(0)
    drawn = [k for k, v in one.items() if v.is_floating_point() and v.ndim > 1]
    assert all(torch.equal(v, again[k]) for k, v in one.items())
    assert not any(torch.equal(one[k], other[k]) for k in drawn)


def test_normalise_is_the_textbook_formula_and_repeats_grey() -> None:
    x = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in IMAGENET)
    torch.testing.assert_close(
        Normalise.imagenet(3)(x), (x - mean) / std, rtol=0, atol=4e-7
    )  # a few ulps of at most 2.7
    grey = x[:, :1]
    torch.testing.assert_close(Normalise(*IMAGENET)(grey), (grey.repeat(1, 3, 1, 1) - mean) / std, rtol=0, atol=4e-7)
    assert Normalise.imagenet(1)(grey).shape == grey.shape
    assert Normalise.imagenet(1).state_dict() == {}


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_networks_take_unnormalised_images_and_keep_their_names(channels: int) -> None:
    module = make_model("torchvision.resnet18", input_shape=(channels, 32, 32), classes=6, seed=0).eval()
    plain = torchvision().models.resnet18(num_classes=6).eval()
    plain.load_state_dict(module.state_dict())
    x = torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(module(x), plain(Normalise(*IMAGENET)(x)))
    assert isinstance(module, type(plain))
    cuts = [c.name for c in legal_cuts(module, (channels, 32, 32))]
    assert cuts[:3] == ["normalise", "conv1", "bn1"]
    assert "layer3.1" in next(c.aliases for c in legal_cuts(module, (channels, 32, 32)) if c.name == "layer3")


def test_torchvision_settings_and_sizes() -> None:
    spec = {"name": "mobilenet_v3_small", "dropout": 0.75}
    module = make_model(spec, input_shape=(1, 28, 28), classes=5, seed=0)
    assert [m.p for m in module.modules() if isinstance(m, nn.Dropout)] == [0.75]
    # torchvision refuses an unknown argument of the one network and would ignore it in the other.
    with pytest.raises(BadSetting, match=r"torchvision cannot build squeezenet1_1 .* and settings {'dropuot': 0.1}"):
        make_model({"squeezenet1_1": {"dropuot": 0.1}}, input_shape=(1, 28, 28), classes=5, seed=0)
    with pytest.raises(
        UnknownName, match=r"setting of torchvision's mobilenet_v3_small: 'dropuot'\. Did you mean 'dropout'"
    ):
        make_model({"mobilenet_v3_small": {"dropuot": 0.1}}, input_shape=(1, 28, 28), classes=5, seed=0)
    with pytest.raises(BadSetting, match="images of 1 or 3 channels; got 2"):
        make_model("mobilenet_v3_small", input_shape=(2, 28, 28), classes=5, seed=0)
    with pytest.raises(NotSupported, match=r"squeezenet1_0 does not take inputs of shape \(3, 6, 6\)"):
        make_model("squeezenet1_0", input_shape=(3, 6, 6), classes=5, seed=0)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("lennet", UnknownName, "unknown model 'lennet'. Did you mean 'lenet'"),
        ("resnet51", UnknownName, "Did you mean .*'resnet50'"),
        (
            {"lenet": {"dropuot": 0.1}},
            UnknownName,
            "unknown setting of the model 'lenet': 'dropuot'. Did you mean 'dropout'",
        ),
        ({"lenet": {"dropout": "much"}}, BadSetting, "setting 'dropout' got 'much'"),
        ({"lenet": {"dropout": 1.0}}, BadSetting, r"dropout is a rate in \[0, 1\); got 1.0"),
        ({"resnet20": {"norm": "layer"}}, BadSetting, "'norm' got 'layer'"),
        ({"mlp": {"widths": []}}, BadSetting, "one or more numbers"),
        ({"lenet": {}, "mlp": {}}, BadSetting, "a model is written as a name"),
        (3, BadSetting, "a model is written as a name"),
        ({"name": 3}, BadSetting, "the name of a model is a text; got 3"),
        ({"factory": "nowhere.at.all:make"}, BadSetting, "no model factory at 'nowhere.at.all:make': No module named"),
        ({"factory": "torch"}, BadSetting, "no model factory at 'torch'"),
        ({"factory": "torch:no_such"}, BadSetting, "no_such"),
        ({"factory": "torch:zeros_like"}, BadSetting, "cannot be asked what it takes"),
    ],
)
def test_wrong_specs(spec: Any, error: type[SplitguardError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_model(spec, input_shape=(1, 8, 8), classes=2, seed=0)


def test_images_are_wanted() -> None:
    with pytest.raises(
        NotSupported, match=r"lenet takes images .* at least 4x4 pixels; got inputs of shape \(12,\). mlp takes"
    ):
        make_model("lenet", input_shape=(12,), classes=2, seed=0)
    assert children(make_model("mlp", input_shape=(12,), classes=2, seed=0))[0] == "flatten"


# ------------------------------------------------------------ factories, weights


def mine(classes: int, input_shape: tuple[int, ...], width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[-1], width), nn.Linear(width, classes))


def of_classes(classes: int) -> nn.Module:
    return nn.Linear(5, classes)


@pytest.fixture
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_factories")
    module.mine = mine  # type: ignore[attr-defined]  # a module of the user's
    module.of_classes = of_classes  # type: ignore[attr-defined]
    module.Group = types.SimpleNamespace(wrong=lambda classes: nn.Linear(5, classes + 1), none=lambda: None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_factories", module)


@pytest.mark.usefixtures("factories")
def test_factories_get_what_they_name() -> None:
    one = make_model({"factory": "my_factories:mine"}, input_shape=(5,), classes=3, seed=0)
    two = make_model({"factory": "my_factories:mine", "width": 9}, input_shape=(5,), classes=3, seed=0)
    assert one(torch.zeros(2, 5)).shape == (2, 3)
    assert [m.out_features for m in two.modules() if isinstance(m, nn.Linear)] == [9, 3]
    three = make_model({"factory": "my_factories:of_classes"}, input_shape=(5,), classes=3, seed=0)
    again = make_model({"factory": "my_factories:of_classes"}, input_shape=(5,), classes=3, seed=0)
    assert torch.equal(next(three.parameters()), next(again.parameters()))
    assert three.training
    with pytest.raises(UnknownName, match=r"setting of the factory my_factories:mine: 'widht'. Did you mean 'width'"):
        make_model({"factory": "my_factories:mine", "widht": 9}, input_shape=(5,), classes=3, seed=0)
    with pytest.raises(BadSetting, match=re.escape("must return logits of shape (N, 3); for N = 2 it returned (2, 4)")):
        make_model({"factory": "my_factories:Group.wrong"}, input_shape=(5,), classes=3, seed=0)
    with pytest.raises(BadSetting, match=r"must return a torch\.nn\.Module"):
        make_model({"factory": "my_factories:Group.none"}, input_shape=(5,), classes=3, seed=0)
    with pytest.raises(NotSupported, match=r"does not take inputs of shape \(6,\)"):
        make_model({"factory": "my_factories:of_classes"}, input_shape=(6,), classes=3, seed=0)


def test_weights_replace_the_tensors_of_their_names(tmp_path: Path) -> None:
    donor = make_model("lenet", input_shape=(1, 8, 8), classes=3, seed=5)
    head = {k: v for k, v in donor.state_dict().items() if k.startswith("conv1")}
    save_file(head, tmp_path / "head.safetensors")
    spec = {"lenet": {"weights": str(tmp_path / "head.safetensors")}}
    module = make_model(spec, input_shape=(1, 8, 8), classes=3, seed=0)
    fresh = make_model("lenet", input_shape=(1, 8, 8), classes=3, seed=0).state_dict()
    for name, value in module.state_dict().items():
        assert torch.equal(value, head.get(name, fresh[name]))
        assert not torch.equal(donor.state_dict()[name], fresh[name])


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def refused(name: str, error: type[SplitguardError], message: str, **more: Any) -> None:
        with pytest.raises(error, match=message):
            make_model(
                {"name": "lenet", "weights": str(tmp_path / name), **more}, input_shape=(1, 8, 8), classes=3, seed=0
            )

    save_file({"conv1.0.wieght": torch.zeros(2)}, tmp_path / "names.safetensors")
    save_file({"conv1.0.bias": torch.zeros(9)}, tmp_path / "shapes.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    torch.save({"conv1.0.bias": torch.zeros(8)}, tmp_path / "head.pt")
    refused("names.safetensors", BadSetting, "unknown tensor 'conv1.0.wieght'. Did you mean 'conv1.0.weight'")
    refused("shapes.safetensors", BadSetting, re.escape("conv1.0.bias must have the shape (8,); got (9,)"))
    refused("empty.safetensors", BadSetting, "hold no tensors")
    refused("junk.safetensors", BadSetting, "cannot be read")
    refused("head.pt", BadSetting, "from .safetensors files only.*can run code")
    refused("absent.safetensors", DataUnavailable, "there is no file of weights")
    refused("empty.safetensors", BadSetting, "the file has changed", digest="0" * 16)


def test_resolved_specs_are_complete_stable_and_make_the_same_network(tmp_path: Path) -> None:
    assert model_spec("lenet") == model_spec({"lenet": None}) == {"name": "lenet", "dropout": 0.0}
    assert model_spec({"mlp": {"widths": [3]}}) == {"name": "mlp", "widths": (3,)}
    assert model_spec({"factory": "builtins:len", "k": 2}) == {"factory": "builtins:len", "k": 2}  # in no file
    assert model_spec("resnet50") == {"name": "resnet50"}
    save_file({"fc3.bias": torch.ones(3)}, tmp_path / "one.safetensors")
    save_file({"fc3.bias": torch.zeros(3)}, tmp_path / "two.safetensors")
    resolved = [model_spec({"lenet": {"weights": str(tmp_path / f)}}) for f in ("one.safetensors", "two.safetensors")]
    assert resolved[0]["digest"] != resolved[1]["digest"]
    for spec in resolved:
        assert model_spec(spec) == spec
    module = make_model(resolved[0], input_shape=(1, 8, 8), classes=3, seed=0)
    assert torch.equal(module.state_dict()["fc3.bias"], torch.ones(3))

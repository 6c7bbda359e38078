# SPDX-License-Identifier: Apache-2.0
"""LPIPS, the learned perceptual distance, and the embedding in which it is a squared distance."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splitguard import compat
from splitguard.errors import DataUnavailable, NotSupported
from splitguard.metrics import weights
from splitguard.metrics.image import check_images, check_pair

__all__ = ["alexnet_features", "lpips", "lpips_available", "lpips_embedding"]

_SMALLEST = 64  # pixels; below it AlexNet's last layers have nothing to look at
_PIXELS_AT_ONCE = 64 * 64 * 64

_LOCK = threading.Lock()
_NETWORKS: dict[torch.device, nn.Module] = {}
_WHY_NOT: list[str] = []  # the reason of the first failure: a matrix of a thousand cells must not try as many downloads


def lpips(guess: Tensor, truth: Tensor) -> Tensor:
    """The perceptual distance of each pair of images: LPIPS with AlexNet, version 0.1.

    ``sum_l mean_hw sum_c w_lc (f_lc(guess) - f_lc(truth))^2`` over the five layers, ``f`` of unit length along the
    channels. The network is the lpips package's. Images are mapped to [-1, 1], grey ones repeated to three channels,
    and those whose smaller side is under 64 pixels enlarged until it is 64 (bilinear, the shape kept): another choice
    gives other numbers. Differentiable.

    Args:
        guess: (N, C, H, W) in [0, 1], C of 1 or 3.
        truth: the same shape and range, on the same device.

    Returns:
        (N,) float32, not negative; 0 is identical.

    Raises:
        BadSetting: for shapes that differ, values outside [0, 1], or NaN.
        NotSupported: for another number of channels, or if lpips is not installed.
        DataUnavailable: if AlexNet's weights cannot be had; the message says how to get them.

    Source: Zhang, Isola, Efros, Shechtman, Wang, The unreasonable effectiveness of deep features, CVPR 2018.
    """
    check_pair(guess, truth)
    at_once = _at_once(guess)
    parts = [
        (lpips_embedding(a) - lpips_embedding(b)).square().sum(1)
        for a, b in zip(torch.split(guess, at_once), torch.split(truth, at_once), strict=True)
    ]
    return torch.cat(parts)


def lpips_embedding(images: Tensor) -> Tensor:
    """Points whose squared Euclidean distance is the LPIPS of their images.

    The weights of LPIPS are not negative, so ``sqrt(w_lc / (H_l W_l)) f_lc`` over all layers is such a point. All
    distances between G guesses and M images then take G + M passes of the network, not 2 G M.

    Args:
        images: (N, C, H, W) in [0, 1], C of 1 or 3.

    Returns:
        (N, D) float32; D is 31,872 for images up to 64x64 and 484,992 at 224x224.

    Raises:
        BadSetting: for values outside [0, 1], or NaN.
        NotSupported: for another number of channels, or if lpips is not installed.
        DataUnavailable: if AlexNet's weights cannot be had.
    """
    check_images(images)
    if images.shape[1] not in (1, 3):
        raise NotSupported(f"LPIPS is defined for 1 or 3 channels; got {images.shape[1]}: score such images by SSIM")
    network = _network(images.device)
    return torch.cat([_embed(part, network) for part in torch.split(images, _at_once(images))])


def alexnet_features(images: Tensor) -> Tensor:
    """(N, 256): AlexNet's last convolution, after its ReLU, averaged over the image; images as in `lpips_embedding`.

    Raises:
        BadSetting, NotSupported, DataUnavailable: as `lpips_embedding`.
    """
    check_images(images)
    if images.shape[1] not in (1, 3):
        raise NotSupported(f"AlexNet takes 1 or 3 channels; got {images.shape[1]}")
    network = _network(images.device)
    with torch.no_grad():
        parts = [_layers(part, network)[-1].mean((2, 3)) for part in torch.split(images, _at_once(images))]
    return torch.cat(parts)


def lpips_available() -> bool:
    """Whether `lpips` works on this machine without a download."""
    if torch.device("cpu") in _NETWORKS:
        return True
    try:
        compat.lpips()
    except NotSupported:
        return False
    return bool(weights.local_sources())


def _at_once(images: Tensor) -> int:
    height, width = (max(side, _SMALLEST) for side in images.shape[-2:])
    return max(1, _PIXELS_AT_ONCE // (height * width))


def _layers(images: Tensor, network: Any) -> Any:
    """AlexNet's five layers of features for images in [0, 1]."""
    height, width = images.shape[-2:]
    x = 2 * images.float().expand(-1, 3, -1, -1) - 1
    smaller = min(height, width)
    if smaller < _SMALLEST:
        size = [round(side * _SMALLEST / smaller) for side in (height, width)]
        x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return network.net(network.scaling_layer(x))


def _embed(images: Tensor, network: Any) -> Tensor:
    parts = []
    for layer, linear in zip(_layers(images, network), network.lins, strict=True):
        weight = linear.model[-1].weight.view(1, -1, 1, 1) / layer[0, 0].numel()
        parts.append((_unit(layer) * weight.sqrt()).flatten(1))
    return torch.cat(parts, dim=1)


def _unit(layer: Tensor) -> Tensor:
    """Of length one along the channels, as lpips.normalize_tensor, whose gradient at zero is NaN; here it is zero."""
    squares = layer.square().sum(dim=1, keepdim=True)
    length = squares.clamp(min=1e-30).sqrt()  # below it both give zero
    return layer / (length + 1e-10)


def _network(device: torch.device) -> nn.Module:
    """The network on ``device``, built once in each process.

    Raises:
        DataUnavailable: if the weights cannot be had; found out once in each process.
        NotSupported: if lpips is not installed.
    """
    with _LOCK:
        if device not in _NETWORKS:
            if torch.device("cpu") not in _NETWORKS and _WHY_NOT:
                raise DataUnavailable(_WHY_NOT[0])
            try:
                _NETWORKS[device] = _build().to(device)
            except DataUnavailable as error:
                _WHY_NOT.append(str(error))
                raise
        return _NETWORKS[device]


def _build() -> nn.Module:
    """lpips.LPIPS with AlexNet, version 0.1, weights in.

    Built without memory (device meta) and filled afterwards: lpips would first draw the 61 million weights of the
    whole of AlexNet from the global generator, and take a second for it.
    """
    module = compat.lpips()
    state = {f"net.slice{s}.{name}": value for s, name, value in _sliced(weights.alexnet_features())}
    linear = Path(module.__file__).parent / "weights" / "v0.1" / "alex.pth"
    state |= torch.load(linear, map_location="cpu", weights_only=True)
    with torch.device("meta"), warnings.catch_warnings():
        # lpips 0.1.4 builds torchvision's AlexNet with an argument that torchvision has renamed
        warnings.filterwarnings("ignore", message="(The parameter 'pretrained'|Arguments other than a weight enum)")
        network: nn.Module = module.LPIPS(net="alex", version="0.1", pretrained=False, pnet_rand=True, verbose=False)
    network.load_state_dict(state, strict=False, assign=True)  # not strict: lins.0 is lin0 under a second name
    unfilled = [name for name, value in network.state_dict().items() if value.is_meta]
    if unfilled:
        raise NotSupported(f"this version of lpips has layers that splitguard does not know: {', '.join(unfilled)}")
    return network.eval().requires_grad_(False)


def _sliced(features: dict[str, Tensor]) -> list[tuple[int, str, Tensor]]:
    """AlexNet's layers by the slice in which lpips keeps them: each of the five convolutions opens one."""
    numbers = sorted({int(name.split(".")[0]) for name in features})
    return [(numbers.index(int(name.split(".")[0])) + 1, name, value) for name, value in features.items()]

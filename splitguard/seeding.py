# SPDX-License-Identifier: Apache-2.0
"""Named random generators from one integer seed; nothing in splitguard reads or seeds global randomness.

`nn.Dropout` and its kin take no generator. `drawing` gives them a seeded fork of the global one, and `reseed`
(which `engine.cut` plants before every random layer) makes each layer draw from its own stream, so that where
a network is cut does not change what its layers draw.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

__all__ = ["derive", "drawing", "generator", "numpy_generator", "reseed"]

Fork = tuple[int, tuple[torch.Generator, ...]]
_CURRENT: contextvars.ContextVar[Fork | None] = contextvars.ContextVar("splitguard_draws", default=None)


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and on every name, and on nothing else.

    The first 8 bytes of the SHA-256 of the parts, so that streams with different names are unrelated.
    """
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for the stream called ``names`` of ``seed``."""
    out = torch.Generator(device=device)
    out.manual_seed(derive(seed, *names))
    return out


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called ``names`` of ``seed``."""
    return np.random.default_rng(derive(seed, *names))


@contextlib.contextmanager
def drawing(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Runs a block in a fork of the global generators, seeded by ``seed``; they are restored afterwards.

    Args:
        seed: where the fork starts; `reseed` within the block depends on it, too.
        device: a cuda device whose generator is forked beside the CPU's.
    """
    forked = [torch.default_generator]
    if device is not None and device.type == "cuda":
        forked.append(torch.cuda.default_generators[device.index or 0])
    states = [g.get_state() for g in forked]
    token = _CURRENT.set((seed, tuple(forked)))
    _start(forked, seed)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        for g, state in zip(forked, states, strict=True):
            g.set_state(state)


def reseed(layer: str) -> None:
    """Starts the stream of ``layer`` inside a `drawing` block; outside one it does nothing."""
    current = _CURRENT.get()
    if current is not None:
        seed, forked = current
        _start(forked, derive(seed, layer))


def _start(generators: Sequence[torch.Generator], seed: int) -> None:
    # torch.manual_seed would also queue a seed for every kind of device, which takes longer than a small layer.
    for g in generators:
        g.manual_seed(seed)

# SPDX-License-Identifier: Apache-2.0
"""Named random generators from one integer seed; nothing in splitguard reads or seeds global randomness.

`nn.Dropout` and its kin take no generator. `drawing` gives them a seeded fork of the global one, and `reseed`
(which `engine.cut` plants before every random layer) makes each layer draw from its own stream, so that where
a network is cut does not change what its layers draw. Noise that a guarantee rests on comes from `standard_normal`,
and in a real deployment from a generator of `system_generator`.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import secrets
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from splitguard.errors import NotSupported

__all__ = ["derive", "drawing", "generator", "numpy_generator", "reseed", "standard_normal", "system_generator"]

#: Torch's Mersenne Twister: its state is so many words of 32 bits, each in 8 bytes, after so many bytes of a header.
WORDS, HEADER = 624, 24

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


def system_generator(device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator that nobody can repeat: its whole state is from the operating system.

    `torch.Generator.seed` sets it from 32 bits on a CPU, which a few hours of trying find out. It is a statistical
    generator all the same, no cryptographic one; on a GPU its state is a seed of 63 bits.

    Raises:
        NotSupported: if this version of torch keeps the state of a CPU's generator in another form.
    """
    out = torch.Generator(device=device)
    out.manual_seed(secrets.randbits(63))
    if out.device.type != "cpu":
        return out
    out.manual_seed(secrets.randbits(32))
    state = out.get_state().numpy().copy()
    words = state[HEADER : HEADER + 8 * WORDS].view(np.uint64)
    # A fresh state begins with the seed itself: that is how its place is known to be right.
    if len(words) != WORDS or int(words[0]) != out.initial_seed() or int(words.max()) >> 32:
        raise NotSupported(f"noise: os knows the generators of torch 2.13; those of {torch.__version__} look different")
    words[:] = np.frombuffer(secrets.token_bytes(4 * WORDS), dtype=np.uint32)
    out.set_state(torch.from_numpy(state))
    return out


def standard_normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """N(0, I) in float64, on the CPU: NumPy's ziggurat, keyed by 4 numbers of 63 bits from ``generator``.

    Its tails are exact up to 13 standard deviations. Torch's float32 draws end at 5.77 on a CPU: beyond that the
    likelihood ratio of two neighbours is infinite, with a probability that may exceed delta.
    """
    key = torch.randint(2**63 - 1, (4,), generator=generator, device=generator.device).tolist()
    drawn = np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).standard_normal(tuple(shape))
    return torch.from_numpy(drawn)


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

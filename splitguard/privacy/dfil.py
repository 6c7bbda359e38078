# SPDX-License-Identifier: Apache-2.0
"""Diagonal Fisher information leakage: how well an unbiased attacker could read inputs through Gaussian noise.

For a release ``f(x) + N(0, sigma^2 I)`` with Jacobian J of f at x, and d input coordinates:

    I(x) = J^T J / sigma^2,    dFIL(x) = tr(I(x)) / d,    MSE of any unbiased attacker >= tr(I^-1) / d >= 1 / dFIL(x)

the MSE per input coordinate. The second inequality is an equality where all directions are equally visible. T releases
add their dFIL. It is a reference line for **unbiased attackers only**: whoever knows anything of images beforehand is
biased and may lie below, and where fewer coordinates cross than the input has no attacker is unbiased. It is no epsilon
and implies none. Source: Maeng, Guo, Kariyappa, Suh, Bounding the invertibility of privacy-preserving instance encoding
using Fisher information, NeurIPS 2023 (arXiv 2305.04146).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from splitguard.errors import BadSetting

__all__ = ["dfil", "jacobian_trace", "mse_reference", "sigma_dfil"]

#: Rows that go through the function at once.
CHUNK = 512


def jacobian_trace(
    function: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(N,), float64: ``tr(J^T J)`` at each row of ``inputs``, the sum of squares of all entries of the Jacobian.

    By forward differentiation along directions v: exactly, along all d unit vectors, or by Hutchinson's estimate, the
    mean of ``||J v||^2`` over ``probes`` draws of random signs, which is unbiased.

    Args:
        function: from (M, *in) to (M, ...), each row by itself; a network in eval mode, say.
        inputs: (N, *in), floating point.
        probes: draws a row; None is exact, at the price of d passes.
        generator: for the draws.

    Raises:
        BadSetting: for fewer than one probe, or probes without a generator.
    """
    if probes is not None and (probes < 1 or generator is None):
        raise BadSetting(f"probes must be at least 1, with a generator to draw them from; got {probes} and {generator}")
    if not len(inputs):
        return torch.zeros(0, dtype=torch.float64)
    width = inputs[0].numel()
    number = width if probes is None else probes
    totals = torch.zeros(len(inputs), dtype=torch.float64)
    # Every pair of a row and a direction is one row of a larger batch.
    for pairs in torch.arange(len(inputs) * number).split(CHUNK):
        rows, which = pairs // number, pairs % number
        if generator is None or probes is None:
            along = torch.nn.functional.one_hot(which, width).to(inputs)
        else:
            signs = torch.randint(2, (len(pairs), width), generator=generator, device=generator.device)
            along = (2 * signs - 1).to(inputs)
        moved = _pushed(function, inputs[rows], along.view(-1, *inputs.shape[1:]))
        totals.index_add_(0, rows, moved.flatten(1).double().square().sum(1).cpu())
    return totals if probes is None else totals / probes


def dfil(trace: float, *, width: int, sigma: float, releases: int = 1) -> float:
    """The leakage ``T tr(J^T J) / (d sigma^2)`` of ``releases`` releases, in one over squared units of the input.

    Args:
        trace: of ``J^T J``, at one input or a mean over inputs; at least 0.
        width: d, the number of input coordinates.
        sigma: standard deviation of the noise of each release, at least 0; 0 gives infinity.
        releases: T, each with noise of its own.

    Raises:
        BadSetting: for a value outside its range.
    """
    _at_least("trace", trace, 0)
    _at_least("width", width, 1)
    _at_least("sigma", sigma, 0)
    _at_least("releases", releases, 1)
    return releases * trace / (width * sigma**2) if sigma else math.inf


def sigma_dfil(*, trace: float, width: int, target: float) -> float:
    """The sigma at which one release has ``1 / dFIL = target``: ``sqrt(target trace / width)``.

    Args:
        trace: of ``J^T J``, a mean over inputs that are not private.
        width: d, the number of input coordinates.
        target: the reference MSE per input coordinate, at least 0, in squared units of the input.

    Raises:
        BadSetting: for a value outside its range.
    """
    _at_least("trace", trace, 0)
    _at_least("width", width, 1)
    _at_least("target", target, 0)
    return math.sqrt(target * trace / width)


def mse_reference(information: float, *, prior: float = 0.0) -> float:
    """``1 / (dFIL + prior)``: the least MSE per input coordinate of the attackers whom it speaks of.

    Args:
        information: dFIL, at least 0, of all releases together.
        prior: with 0, a reference for unbiased attackers only. Else the Fisher information of the inputs' own
            distribution, per coordinate (``1 / s^2`` for variance s^2 and a Gaussian): then it bounds every attacker,
            biased or not, on average over that distribution, with ``information`` averaged alike (van Trees'
            inequality). Images are no Gaussian, so a prior that was guessed makes it a reference line again.

    Returns:
        In squared units of the input; infinite where nothing is known.

    Raises:
        BadSetting: for a negative value.
    """
    if not (information >= 0 and prior >= 0):
        raise BadSetting(f"dFIL and the prior's information must be at least 0; got {information!r} and {prior!r}")
    known = information + prior
    return 1 / known if known else math.inf


def _pushed(function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> Tensor:
    """(M, ...): the derivative of ``function`` at each row along the direction beside it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused attention has no forward derivative
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), warnings.catch_warnings():
            # The first forward derivative imports code of torch's own that torch calls deprecated.
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", category=DeprecationWarning)
            moved: Tensor = jvp(function, (at,), (along,))[1]
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return moved


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise BadSetting(f"{name} must be at least {least} and finite; got {value!r}")

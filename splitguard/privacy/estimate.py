# SPDX-License-Identifier: Apache-2.0
"""A lower limit of what a mechanism really gives away, by attacking it, held against what it claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import beta
from torch import Tensor

from splitguard.errors import BadSetting
from splitguard.privacy.accounting import epsilon_of
from splitguard.privacy.game import STATISTICS, WORLDS, Played, Send, play
from splitguard.privacy.gradient_game import GRADIENT_STATISTICS, Step, play_gradients
from splitguard.privacy.label_game import LABEL_STATISTICS, LABEL_WORLDS, Tell, play_labels

__all__ = ["Claim", "Estimate", "Tested", "estimate_epsilon", "estimate_gradient_epsilon", "estimate_label_epsilon"]

#: The share of the trials that picks threshold and sign; the others test.
PICKING = 4
#: Over all tests together, a correct mechanism is flagged with at most this probability.
MISTAKE = 1e-3
#: Thresholds tried while picking.
THRESHOLDS = 200


@dataclass(frozen=True)
class Claim:
    """What is claimed for all releases of one row.

    Attributes:
        epsilon, delta: the pair.
        clip: C, on whose scale the adversary's rows lie.
        releases: T.
        gaussian: the mechanism adds Gaussian noise to a bounded row, so that one mu says all.
        zero_out: the claim is about a row against the zero row, or against none, and not against any other.
    """

    epsilon: float
    delta: float
    clip: float
    releases: int
    gaussian: bool
    zero_out: bool = False

    @property
    def worlds(self) -> tuple[str, ...]:
        """Those of the game whose two rows are neighbours in the sense of the claim."""
        return WORLDS[2:] if self.zero_out else WORLDS

    @property
    def mu(self) -> float | None:
        """The mu whose epsilon at ``delta`` is the claimed one; None for mechanisms that are not Gaussian."""
        if not self.gaussian:
            return None
        return float(brentq(lambda mu: epsilon_of(mu, self.delta) - self.epsilon, 1e-6, 1e4, xtol=1e-12))


@dataclass(frozen=True)
class Tested:
    """One world, one statistic: ``lower`` is the limit it shows, of mu or of epsilon."""

    world: str
    statistic: str
    lower: float


@dataclass(frozen=True)
class Estimate:
    """What the game showed.

    Attributes:
        measure: ``"mu"`` or ``"epsilon"``, which ``claimed``, ``lower`` and ``ceiling`` are of.
        claimed: what must not be exceeded.
        lower: the largest lower limit of any test; all hold together with probability 99.9 %.
        ceiling: what so many trials could show at most.
        flagged: ``lower`` exceeds ``claimed``: the claim is false.
        best: the test behind ``lower``.
        tests: all of them.
        trials: of each side of each world.
    """

    measure: str
    claimed: float
    lower: float
    ceiling: float
    flagged: bool
    best: Tested
    tests: tuple[Tested, ...]
    trials: int

    def __str__(self) -> str:
        says = "so the claim is FALSE" if self.flagged else "which does not contradict the claim"
        return (
            f"{self.measure} is at least {self.lower:.3g} ({self.best.world}, {self.best.statistic}) where "
            f"{self.claimed:.3g} is claimed, {says}; {self.trials} trials a side could show {self.ceiling:.3g} at most."
        )


def estimate_epsilon(
    send: Send,
    claim: Claim,
    *,
    shape: tuple[int, ...],
    batch: int = 32,
    trials: int = 1000,
    generator: torch.Generator,
) -> Estimate:
    """Attacks a mechanism in the game of `splitguard.privacy.game.play` and holds what it finds against the claim.

    A test says "left" beyond a threshold. A quarter of the trials picks threshold and sign, the others count: with
    TPR_lo and FPR_hi the Clopper-Pearson limits of its hits and false alarms,

        mu >= Phi^-1(TPR_lo) - Phi^-1(FPR_hi)          epsilon >= log((TPR_lo - delta) / FPR_hi)

    The first holds for every Gaussian mechanism, the second for any. The limits are taken at 1 - 0.001 / (2 tests), so
    that all hold together with probability 99.9 %: a correct mechanism is flagged once in a thousand games. One that is
    not flagged is not thereby correct.

    Args:
        send: the mechanism.
        claim: what it claims.
        shape: of one row's smashed data.
        batch: rows in a batch, as deployed.
        trials: of each side of each world.
        generator: the mechanism draws from it.

    Source: Jagielski, Ullman, Oprea, Auditing differentially private machine learning, NeurIPS 2020; mu: Nasr et al.,
    Tight auditing of differentially private machine learning, USENIX Security 2023. Here the game is played on the
    releases of a batch, other rows included, not on trained weights.
    """
    setting = {"shape": shape, "clip": claim.clip, "batch": batch, "releases": claim.releases, "trials": trials}
    games = play(send, **setting, worlds=claim.worlds, generator=generator)  # type: ignore[arg-type]
    return _estimate(games, claim, trials, worlds=len(claim.worlds), statistics=STATISTICS)


def estimate_gradient_epsilon(
    step: Step,
    claim: Claim,
    *,
    shape: tuple[int, ...],
    batch: int = 32,
    trials: int = 1000,
    generator: torch.Generator,
) -> Estimate:
    """The same for a mechanism that trains, in the game of `splitguard.privacy.gradient_game.play_gradients`.

    Args:
        step: the mechanism.
        claim: what it claims of the weights; its clip is that of a row's gradient.
        shape: of one row's gradient.
        batch: rows in a batch, as deployed.
        trials: of each side of each world.
        generator: the mechanism draws from it.

    Source: gradients as canaries: Nasr et al., as above.
    """
    setting = {"shape": shape, "clip": claim.clip, "batch": batch, "releases": claim.releases, "trials": trials}
    games = play_gradients(step, **setting, worlds=claim.worlds, generator=generator)  # type: ignore[arg-type]
    return _estimate(games, claim, trials, worlds=len(claim.worlds), statistics=GRADIENT_STATISTICS)


def estimate_label_epsilon(
    tell: Tell, claim: Claim, *, classes: int = 10, batch: int = 32, trials: int = 1000, generator: torch.Generator
) -> Estimate:
    """The same for a mechanism that changes labels, in the game of `splitguard.privacy.label_game.play_labels`.

    Args:
        tell: the mechanism.
        claim: what it claims; its clip does not count here.
        classes: K.
        batch: rows in a batch, as deployed.
        trials: of each side of each world.
        generator: the mechanism draws from it.
    """
    games = play_labels(tell, classes=classes, batch=batch, releases=claim.releases, trials=trials, generator=generator)
    return _estimate(games, claim, trials, worlds=len(LABEL_WORLDS), statistics=LABEL_STATISTICS)


def _estimate(
    games: Iterable[Played], claim: Claim, trials: int, *, worlds: int, statistics: Sequence[str]
) -> Estimate:
    """What all tests together show."""
    tail = MISTAKE / (2 * worlds * len(statistics))
    tests = tuple(test for played in games for test in _tests(played, claim, tail, statistics))
    best = max(tests, key=lambda test: test.lower)
    claimed = claim.epsilon if claim.mu is None else claim.mu
    counted = torch.tensor([trials - trials // PICKING])
    ceiling = float(_limit(counted, torch.tensor([0]), int(counted), claim, tail)[0])
    return Estimate(
        measure="epsilon" if claim.mu is None else "mu",
        claimed=claimed,
        lower=best.lower,
        ceiling=ceiling,
        flagged=best.lower > claimed * (1 + 1e-9),
        best=best,
        tests=tests,
        trials=trials,
    )


def _tests(played: Played, claim: Claim, tail: float, statistics: Sequence[str]) -> Iterator[Tested]:
    picked = len(played.left) // PICKING
    for number, statistic in enumerate(statistics):
        left, right = played.left[:, number], played.right[:, number]
        if not bool(torch.isfinite(torch.cat([left, right])).all()):
            raise BadSetting(f"{played.world}: the mechanism sent values that are not finite")
        threshold, sign = _pick(left[:picked], right[:picked], claim, tail)
        hits = _beyond(left[picked:], threshold, sign)
        alarms = _beyond(right[picked:], threshold, sign)
        yield Tested(played.world, statistic, float(_limit(hits, alarms, len(left) - picked, claim, tail)[0]))


def _pick(left: Tensor, right: Tensor, claim: Claim, tail: float) -> tuple[Tensor, float]:
    """The threshold and sign that show most on the picking trials."""
    both = torch.cat([left, right]).sort().values
    places = torch.linspace(0, len(both) - 2, min(THRESHOLDS, len(both) - 1)).round().long()
    thresholds = (both[places] + both[places + 1]) / 2
    found = []
    for sign in (1.0, -1.0):
        shown = _limit(_beyond(left, thresholds, sign), _beyond(right, thresholds, sign), len(left), claim, tail)
        place = int(shown.argmax())
        found.append((float(shown[place]), thresholds[place : place + 1], sign))
    _, threshold, sign = max(found, key=lambda each: each[0])
    return threshold, sign


def _beyond(values: Tensor, thresholds: Tensor, sign: float) -> Tensor:
    """How many values lie beyond each threshold."""
    return (sign * values[:, None] > sign * thresholds[None]).sum(0)


def _limit(hits: Tensor, alarms: Tensor, n: int, claim: Claim, tail: float) -> Tensor:
    """The lower limits of mu or epsilon behind counts of hits and false alarms among n each."""
    k, j = hits.double().numpy(), alarms.double().numpy()
    low = torch.from_numpy(beta.ppf(tail, k.clip(min=1), n - k + 1)).where(hits > 0, 0.0)
    high = torch.from_numpy(beta.ppf(1 - tail, j + 1, (n - j).clip(min=1))).where(alarms < n, 1.0)
    if claim.gaussian:
        shown = torch.from_numpy(ndtri(low.numpy()) - ndtri(high.numpy()))
        return torch.where((low > 0) & (high < 1), shown, -math.inf)
    return torch.log(((low - claim.delta).clamp(min=0)) / high)

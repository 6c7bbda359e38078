# SPDX-License-Identifier: Apache-2.0
"""The clipped Gaussian release: exact nulls, closed forms, what it guarantees where, and an attack on its epsilon."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from torch import Tensor, nn

from splitguard import privacy
from splitguard.api import DEFENSES, Labels, Mode, NotSupported, Phase
from splitguard.building.rows_alone import clip_rows
from splitguard.defenses.gaussian import Gaussian
from splitguard.engine.bench import Bench
from splitguard.errors import BadSetting, Diverged, ReleaseRefused, SplitguardError


def rows(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


def test_without_clip_and_noise_every_bit_stays() -> None:
    bench = Bench(Gaussian(sigma=0, clip="none"))
    smashed = rows(8, 4, 6, 6, scale=1e3)
    for phase in Phase:
        assert bench.send(smashed, phase=phase) is smashed
    assert bench.defense.released_like(smashed, bench.gen()) is smashed
    assert bench.defense.mean_release(smashed) is smashed
    assert (bench.defense.noise_std(), bench.defense.privacy()) == (0.0, ())


def test_the_clip_in_closed_form() -> None:
    bench = Bench(Gaussian(sigma=0, clip=1.0))
    sent = bench.send(torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, -7.0]]))
    torch.testing.assert_close(sent[0], torch.tensor([0.6, 0.8]), rtol=2e-7, atol=0)
    assert torch.equal(sent[1:], torch.tensor([[0.3, 0.4], [0.0, 0.0], [0.0, -1.0]]))
    assert bench.defense.privacy() == ()


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    count=st.integers(1, 6),
    clip=st.floats(1e-3, 1e3),
    spread=st.floats(-4, 4),
    seed=st.integers(0, 2**31),
)
def test_rows_of_any_shape_are_clipped_whole_and_alone(
    shape: list[int], count: int, clip: float, spread: float, seed: int
) -> None:
    gen = torch.Generator().manual_seed(seed)
    given = torch.randn(count, *shape, generator=gen) * 10 ** (
        spread * torch.rand(count, *[1] * len(shape), generator=gen)
    )
    got = clip_rows(given, clip)
    exact = given.double().numpy()
    norms = np.sqrt((exact.reshape(count, -1) ** 2).sum(1)).reshape(-1, *[1] * len(shape))
    np.testing.assert_allclose(got.numpy(), exact * np.minimum(1, clip / norms), rtol=1e-6)  # eight ulps
    assert float(got.flatten(1).double().norm(dim=1).max()) <= clip * (1 + 1e-6)
    for i in range(count):
        assert torch.equal(got[i : i + 1], clip_rows(given[i : i + 1], clip))


def test_a_short_type_is_rounded_only_after_the_noise() -> None:
    many = rows(64, 500, scale=9).bfloat16()
    assert float(clip_rows(many, 1.0).norm(dim=1).max()) <= 1 + 1e-6
    bench = Bench(Gaussian(sigma=1.0, clip=1.0))
    assert bench.send(many).dtype is torch.bfloat16


def test_the_gradient_goes_through_the_clip() -> None:
    wide = rows(5, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: clip_rows(z, 1.5), wide)
    (grad,) = torch.autograd.grad(clip_rows(zero := torch.zeros(1, 3, requires_grad=True), 1.0).sum(), zero)
    assert torch.equal(grad, torch.ones(1, 3))


def test_the_noise_has_the_stated_spread_and_is_fresh() -> None:
    bench, gen = Bench(Gaussian(sigma=0.7, clip=2.0)), torch.Generator().manual_seed(3)
    smashed, ids = rows(40, 1, 10, 50), torch.arange(40)
    first, second = (bench.defense.on_send(smashed, bench.context(ids), gen) for _ in range(2))
    noise = torch.stack([first, second]) - bench.defense.mean_release(smashed)
    n = noise[0].numel()
    for draw in noise:
        assert abs(float(draw.mean())) < 4 * 0.7 / n**0.5
        assert abs(float(draw.std()) / 0.7 - 1) < 4 / (2 * n) ** 0.5
    assert abs(float((noise[0] * noise[1]).mean()) / 0.7**2) < 4 / n**0.5
    along = [noise[0].diff(dim=d) for d in (0, 3)]  # equal noise along an axis would have differences of 0
    assert all(abs(float(d.std()) / (0.7 * 2**0.5) - 1) < 8 / (2 * n) ** 0.5 for d in along)


def test_only_the_named_phases_are_protected() -> None:
    smashed = rows(2, 3)
    for phases, kept in ((("training",), {Phase.TRAINING}), (("query",), {Phase.EVALUATION, Phase.QUERY})):
        bench = Bench(Gaussian(sigma=1.0, clip=1.0, phases=phases))
        changed = {phase for phase in Phase if not torch.equal(bench.send(smashed, phase=phase), smashed)}
        assert changed == kept


@pytest.mark.parametrize(
    ("smashed", "ids", "error", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), 2, BadSetting, "floating point.*int64"),
        (torch.ones(2, 3), 3, BadSetting, "an id for each of N rows.*3 ids"),
        (torch.ones(2), 2, BadSetting, r"shape \(N, ...\)"),
        (torch.tensor([[1.0, math.nan]]), 1, Diverged, "not finite, so no clip bounds it"),
        (torch.tensor([[1.0, math.inf]]), 1, Diverged, "not finite"),
    ],
)
def test_what_cannot_be_protected_is_not_sent(
    smashed: Tensor, ids: int, error: type[SplitguardError], message: str
) -> None:
    bench = Bench(Gaussian(sigma=1.0, clip=1.0), releases=1)
    with pytest.raises(error, match=message):
        bench.send(smashed, torch.arange(ids))
    bench.send(torch.ones(3, 3), torch.arange(3))  # and it was not counted


def test_the_ledger_refuses_what_was_not_planned() -> None:
    bench, smashed = Bench(Gaussian(sigma=1.0, clip=1.0), releases=3), rows(2, 3)
    ids = torch.tensor([5, 6])
    for phase in (Phase.TRAINING, Phase.TRAINING, Phase.EVALUATION, Phase.QUERY):
        bench.send(smashed, ids, phase=phase)
    for phase in Phase:
        with pytest.raises(ReleaseRefused, match="more often than planned"):
            bench.send(smashed, ids, phase=phase)
    bench.send(smashed, ids + 2)


def test_what_is_not_protected_is_not_counted() -> None:
    bench, ids = Bench(Gaussian(sigma=1.0, clip=1.0, phases=("query",)), releases=1), torch.arange(2)
    for _ in range(4):
        bench.send(rows(2, 3), ids)
    bench.send(rows(2, 3), ids, phase=Phase.QUERY)
    with pytest.raises(ReleaseRefused):
        bench.send(rows(2, 3), ids, phase=Phase.QUERY)


@pytest.mark.parametrize("bind", [True, False])
def test_a_resumed_session_goes_on_with_the_same_noise_and_counts(bind: bool) -> None:
    settings: dict[str, Any] = {"epsilon": 4.0, "clip": "auto"}
    bench, gen, ids = Bench(Gaussian(**settings), releases=2), torch.Generator().manual_seed(1), torch.arange(8)
    bench.defense.on_send(bench.smashed, bench.context(ids), gen)
    state, stream = bench.defense.state_dict(), gen.get_state()
    wanted = bench.defense.on_send(bench.smashed, bench.context(ids), gen)
    twin = Bench(Gaussian(**settings), releases=2, bind=bind)
    twin.defense.load_state_dict(state)
    again = torch.Generator()
    again.set_state(stream)
    assert torch.equal(twin.defense.on_send(bench.smashed, bench.context(ids), again), wanted)
    assert twin.defense.privacy() == bench.defense.privacy() != ()
    with pytest.raises(ReleaseRefused):
        twin.send(bench.smashed, ids)


def test_before_bind_it_refuses_to_act() -> None:
    defense = Gaussian()
    assert (defense.state_dict(), defense.privacy()) == ({}, ())
    defense.load_state_dict({})
    with pytest.raises(NotSupported, match="call bind before anything is sent"):
        defense.mean_release(rows(2, 3))


@pytest.mark.parametrize(
    ("epsilon", "releases", "multiplier"),
    [(1, 1, 3.7306), (4, 1, 1.0812), (8, 1, 0.6002), (1, 10, 11.797), (4, 10, 3.419), (8, 10, 1.898)],
)
@pytest.mark.parametrize(("adjacency", "factor"), [("replace-one", 2), ("zero-out", 1)])
def test_the_noise_for_an_epsilon_is_the_known_one(
    epsilon: float, releases: int, multiplier: float, adjacency: privacy.Adjacency, factor: int
) -> None:
    defense = Gaussian(epsilon=epsilon, clip=3.0, adjacency=adjacency)
    Bench(defense, releases=releases)
    assert defense.noise_std() / (factor * 3.0) == pytest.approx(multiplier, rel=2e-4)  # the digits that are given
    [told] = defense.privacy()
    assert told.epsilon_rows == pytest.approx(epsilon, rel=1e-6)
    assert told.epsilon_rows is not None
    assert told.epsilon_rows <= epsilon
    assert (told.sensitivity, told.T, told.delta, told.adjacency) == (factor * 3.0, releases, 1e-5, adjacency)
    once = privacy.epsilon(sigma=defense.noise_std(), clip=3.0, releases=1, delta=1e-5, adjacency=adjacency)
    assert told.epsilon_query == once
    twin = Gaussian(sigma=defense.noise_std(), clip=3.0, adjacency=adjacency)
    Bench(twin, releases=releases)
    assert twin.privacy() == (told,)


def test_the_automatic_clip_is_the_median_norm_of_auxiliary_rows() -> None:
    bench = Bench(Gaussian(sigma=1.0))
    with torch.no_grad():
        smashed = bench.network.head(bench.deployment.aux.inputs).double().numpy()
    norms = np.sort(np.sqrt((smashed.reshape(8, -1) ** 2).sum(1)))
    [told] = bench.defense.privacy()
    assert told.sensitivity == pytest.approx(norms[3:5].sum(), rel=1e-6)  # twice the median of eight
    assert bench.defense.clip == "auto"  # the setting is what was set: it is a key


def test_an_automatic_clip_needs_a_norm() -> None:
    deployment = Bench(Gaussian()).deployment
    for change in ({"aux": deployment.aux[:0]}, {"head": nn.Sequential(nn.Flatten(), nn.Threshold(9, 0))}):
        with pytest.raises(BadSetting, match=r"clip: auto is the median norm.*Give a number instead"):
            Gaussian().bind(dataclasses.replace(deployment, **change))  # type: ignore[arg-type]  # one field each


WHERE = [(Labels.SENT, None), (Labels.SERVER, None), (Labels.CLIENT, None), (Labels.SENT, Mode.SPLITFED)]


@pytest.mark.parametrize(("labels", "mode"), WHERE)
@pytest.mark.parametrize("mixing", [(), ("norm1",)])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("phases", [("training", "query"), ("training",), ("query",)])
def test_no_more_is_claimed_than_holds(
    labels: Labels, mode: Mode | None, mixing: tuple[str, ...], frozen: bool, phases: Any
) -> None:
    defense = Gaussian(epsilon=5.0, clip=1.0, phases=phases)
    Bench(defense, labels=labels, mode=mode, mixing=mixing, head_frozen=frozen, releases=4)
    [told] = defense.privacy()
    training, query = "training" in phases, "query" in phases
    assert (told.epsilon_rows is not None) == training
    assert (told.epsilon_query is not None) == query
    assert (told.epsilon is not None) == (training and frozen and not mixing)
    assert told.epsilon in (None, told.epsilon_rows)
    assert (4 if training else 1) == told.T
    assert (told.epsilon_rows or told.epsilon_query) == pytest.approx(5.0)
    sentence = str(told)
    assert ("the head is trained on raw inputs" in sentence) == (training and not frozen)
    assert ("norm1 mixes the rows" in sentence) == (training and bool(mixing))
    assert ("training rows are sent without clip or noise" in sentence) == (not training)
    assert ("in evaluation and in queries has neither" in sentence) == (not query)
    assert ("fed server" in sentence) == (mode is Mode.SPLITFED)
    by = {
        Labels.SENT: "they are sent",
        Labels.SERVER: "the server owns",
        Labels.CLIENT: "the returned gradient carries",
    }
    assert f"labels are held fixed and not protected: {by[labels]}" in sentence


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 1.0, "sigma": 1.0}, "both given"),
        ({"epsilon": 0.0}, "epsilon must lie above 0"),
        ({"epsilon": math.inf}, "epsilon must lie above 0 and below inf"),
        ({"sigma": -1.0}, "sigma must lie above 0"),
        ({"sigma": math.nan}, "sigma must lie above 0"),
        ({"delta": 0.0}, "delta must lie above 0 and below 1"),
        ({"delta": 1.0}, "delta must lie above 0 and below 1"),
        ({"clip": 0.0}, "clip must lie above 0"),
        ({"clip": math.inf, "sigma": 1.0}, "clip must lie above 0 and below inf"),
        ({"clip": "atuo"}, "unknown clip 'atuo'. Did you mean 'auto'"),
        ({"clip": "none"}, "no sensitivity, so no epsilon"),
        ({"phases": ()}, "phases is empty"),
        ({"phases": ("trainign",)}, "unknown phase 'trainign'. Did you mean 'training'"),
        ({"adjacency": "zeroout"}, "unknown adjacency 'zeroout'. Did you mean 'zero-out'"),
    ],
)
def test_settings_at_odds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Gaussian(**settings)


def test_settings_that_mean_the_same_are_the_same() -> None:
    assert Gaussian() == Gaussian(epsilon=8.0)
    built = DEFENSES.build({"gaussian": {"sigma": 1, "phases": ["query", "training"]}})
    assert built == Gaussian(sigma=1.0)
    assert Gaussian(sigma=1.0, phases="query").phases == ("query",)  # type: ignore[arg-type]  # as written in a file


def lower_bound(plus: Tensor, minus: Tensor, delta: float, *, confidence: float = 0.9999) -> float:
    """An empirical lower bound of epsilon from scores (2 n,) of two neighbouring inputs, larger for ``plus``.

    Every test obeys P(accept | plus) <= e^epsilon P(accept | minus) + delta. The threshold is chosen on one half of the
    scores; on the other one Clopper-Pearson limits make the bound hold with ``confidence``.
    """
    n, rest = len(plus) // 2, (1 - confidence) / 2

    def accepted(scores: Tensor, threshold: Tensor) -> int:
        return int((scores > threshold).sum())

    def ratio(threshold: Tensor) -> float:
        return (accepted(plus[:n], threshold) - delta * n) / (accepted(minus[:n], threshold) + 9)

    chosen = max(plus[:n].quantile(torch.linspace(0.02, 0.98, 97)), key=ratio)
    hits, misses = accepted(plus[n:], chosen), accepted(minus[n:], chosen)
    least, most = beta.ppf(rest, hits, n - hits + 1), beta.ppf(1 - rest, misses + 1, n - misses)
    return math.log(max(least - delta, 1e-300) / most)


@pytest.mark.parametrize(
    ("adjacency", "planned", "forgotten"),
    [("replace-one", 5, False), ("replace-one", 1, True), ("zero-out", 5, True)],
    ids=["honest", "T forgotten", "C for 2C"],
)
def test_an_attack_on_epsilon_finds_no_more_than_is_claimed_and_finds_an_error(
    adjacency: privacy.Adjacency, planned: int, forgotten: bool
) -> None:
    """The worst pair, +C e1 and -C e1, over five releases, played 60,000 times each."""
    delta, count, times = 0.05, 60_000, 5
    defense = Gaussian(epsilon=1.0, delta=delta, clip=2.0, adjacency=adjacency)
    bench = Bench(defense, releases=planned)
    far = torch.zeros(count, 2, 2)
    far[:, 0, 0] = 1e3
    gen = bench.gen()

    def score(sign: int) -> Tensor:
        # `released_like` is what `on_send` sends, without the ledger, which would refuse a forgotten release.
        sent = [defense.released_like(sign * far, gen) for _ in range(times)]
        return torch.stack(sent).sum(0)[:, 0, 0]

    found = lower_bound(score(1), score(-1), delta)
    if forgotten:
        assert found > 1.2
    else:
        assert 0.75 < found <= 1.0  # close to tight, so an accountant that is off would show

# SPDX-License-Identifier: Apache-2.0
"""Noise without a clip: the stated laws, no epsilon whatever the settings, and what averaging makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from splitguard.api import BadSetting, Phase
from splitguard.defenses.noise import Noise
from splitguard.engine.bench import Bench
from tests.defenses.test_in_training import run


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_without_noise_every_bit_stays() -> None:
    bench, smashed = Bench(Noise(sigma=0.0)), rows(3, 4)
    assert all(bench.send(smashed, phase=phase) is smashed for phase in Phase)
    assert bench.defense.released_like(smashed, bench.gen()) is smashed


@pytest.mark.parametrize(
    ("law", "truth", "fourth"),
    [("gaussian", stats.norm(scale=0.6), 3.0), ("laplace", stats.laplace(scale=0.6 / math.sqrt(2)), 6.0)],
)
def test_the_noise_has_the_stated_law_and_is_fresh(law: Any, truth: Any, fourth: float) -> None:
    bench, smashed, gen = Bench(Noise(sigma=0.6, law=law)), rows(40, 500).double(), torch.Generator().manual_seed(1)
    ctx = bench.context(torch.arange(40))
    first, second = (bench.defense.on_send(smashed, ctx, gen) - smashed for _ in range(2))
    n = first.numel()
    for draw in (first, second):
        assert stats.kstest(draw.flatten().numpy(), truth.cdf).pvalue > 1e-4
        assert abs(float(draw.var()) / 0.36 - 1) < 4 * ((fourth - 1) / n) ** 0.5
    assert abs(float((first * second).mean()) / 0.36) < 4 / n**0.5
    assert bench.defense.noise_std() == 0.6


def test_only_the_named_phases_are_noisy() -> None:
    bench, smashed = Bench(Noise(phases=("query",))), rows(2, 3)
    changed = {phase for phase in Phase if not torch.equal(bench.send(smashed, phase=phase), smashed)}
    assert changed == {Phase.EVALUATION, Phase.QUERY}


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize("sigma", [0.01, 1e9])
def test_no_sigma_is_an_epsilon(law: Any, sigma: float) -> None:
    bench = Bench(Noise(sigma=sigma, law=law), head_frozen=True)
    assert bench.defense.privacy() == ()
    # The reason: whatever sigma is, two rows may lie any number of sigmas apart.
    far = 1e3 * sigma * torch.ones(1, 2)
    apart = bench.defense.mean_release(far) - bench.defense.mean_release(-far)
    assert float(apart.abs().min()) > 1e3 * sigma


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -0.1}, "sigma must be a finite number, 0 or more"),
        ({"sigma": math.inf}, "sigma must be a finite number"),
        ({"law": "uniform"}, "unknown law 'uniform'"),
        ({"phases": ()}, "noise: phases is empty"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Noise(**settings)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_what_crosses_averages_to_sigma_over_root_t(law: str) -> None:
    session = run({"noise": {"sigma": 0.5, "law": law}}, head="frozen", epochs=4)
    rows = session.transcript.releases("training")
    assert rows is not None
    rows, times = rows.all_of(session.data.members)
    with torch.no_grad():
        made = session.split.head.eval()(session.truth(session.data.members).inputs)
    noise = (rows.smashed - made.repeat_interleave(times, 0)).view(-1, times, *made.shape[1:])
    n = noise.numel()
    assert abs(float(noise.var()) / 0.25 - 1) < 4 * (5 / n) ** 0.5
    assert abs(float(noise.mean(1).var()) / (0.25 / times) - 1) < 4 * (5 * times / n) ** 0.5
    assert session.guarantees == ()

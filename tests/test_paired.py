# SPDX-License-Identifier: Apache-2.0
"""Two attacks on the same images: the limit of the difference is that of the paired t test, whichever way is better."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from benchmarks.paired import METRICS, compared, no_worse
from benchmarks.reproduce import claims
from benchmarks.reproduce.__main__ import _line


def images() -> tuple[Tensor, Tensor, Tensor]:
    """Truth, a good guess of it and a bad one; images differ more from one another than the guesses of one."""
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(6, 1, 12, 12, generator=draws)
    level = torch.linspace(0.05, 0.6, 6).view(-1, 1, 1, 1)
    off = torch.randn(truth.shape, generator=draws)
    return truth, (truth + level * off).clamp(0, 1), (truth + 1.1 * level * off).clamp(0, 1)


def test_the_limit_is_that_of_the_paired_t_test_and_a_smaller_error_is_a_gain() -> None:
    truth, good, bad = images()
    for one, other, better in ((good, bad, True), (bad, good, False)):
        found = compared(one, other, truth)
        assert set(found) == set(METRICS)
        for name, (metric, sign) in METRICS.items():
            apart = (sign * (metric(one, truth).double() - metric(other, truth).double())).numpy()
            half = scipy.stats.t.ppf(0.95, 5) * scipy.stats.sem(apart)
            assert found[name]["gain"] == pytest.approx(apart.mean())
            assert found[name]["gain_at_least"] == pytest.approx(apart.mean() - half)
            assert found[name]["n"] == 6
            assert no_worse(found, name) is better
    unpaired = METRICS["mse"][0](good, truth).std() / 6**0.5
    gain = compared(good, bad, truth)["mse"]
    assert float(unpaired) > gain["gain"] > 0  # of two groups of images nothing could be told


def test_images_of_one_network_count_together() -> None:
    truth, good, bad = images()
    found = compared(good, bad, truth, together=2)["mse"]
    apart = (METRICS["mse"][0](bad, truth) - METRICS["mse"][0](good, truth)).double().numpy()
    means = [apart[:2].mean(), apart[2:4].mean(), apart[4:].mean()]
    assert found["n"] == 3
    assert found["gain"] == pytest.approx(apart.mean())
    assert found["gain_at_least"] == pytest.approx(apart.mean() - scipy.stats.t.ppf(0.95, 2) * scipy.stats.sem(means))


def test_the_same_guess_is_no_worse_and_a_single_image_tells_nothing() -> None:
    truth, good, bad = images()
    assert no_worse(compared(good, good, truth), "ssim")
    assert not no_worse(compared(good[:1], bad[:1], truth[:1]), "ssim")


def test_a_paper_held_against_its_own_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, good, bad = images()
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    for name, found in (("won", compared(good, bad, truth)), ("lost", compared(bad, good, truth))):
        (tmp_path / f"{name}.json").write_text(json.dumps({"paired": found}))
    (tmp_path / "old.json").write_text("{}")
    none: Any = SimpleNamespace(records=[])
    told = {}
    for name in ("won", "lost", "old", "missing"):
        [told[name]] = claims.judge({"what": "it", "metric": "ssim", "reference": name}, none, victims=10)
    assert [told[name].fidelity for name in told] == ["reference-run", "reference-run", "not run", "not run"]
    assert [told[name].holds for name in told] == [True, False, None, None]
    assert told["won"].ours == told["lost"].published
    assert _line(told["won"]).endswith("| 6 |  | reference-run | yes, paired |")
    assert _line(told["lost"]).endswith("| reference-run | no |")


def test_one_of_several_cases_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, good, bad = images()
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    cases = {"a at one": compared(good, bad, truth), "a at two": compared(bad, good, truth)}
    (tmp_path / "both.json").write_text(json.dumps({"cases": cases}))
    none: Any = SimpleNamespace(records=[])
    claim = {"what": "it", "metric": "psnr", "reference": "both"}
    for case, holds in (("a at one", True), ("a at two", False), ("b at one", None)):
        [found] = claims.judge({**claim, "case": case}, none, victims=10)
        assert found.holds is holds

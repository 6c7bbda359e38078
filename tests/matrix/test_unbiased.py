# SPDX-License-Identifier: Apache-2.0
"""The reference line of unbiased attackers: exact for a linear head, in the record, the page, and missing elsewhere."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import DEFENSES, Context, Defense, build_defense
from splitguard.engine.access import models_of
from splitguard.engine.bench import Bench
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.matrix import Matrix
from splitguard.matrix.outcome import session_outcome
from splitguard.matrix.unbiased import unbiased_columns
from splitguard.privacy.dfil import jacobian_trace
from splitguard.reports import write_report
from splitguard.reports.gather import deployments
from splitguard.reports.unbiased import unbiased
from tests.engine import toys
from tests.matrix.toys import QUICK

SIGMA = 0.5


def rotation() -> nn.Sequential:
    """A head that turns the 64 pixels and scales them by 3, then a classifier."""
    turn, top = nn.Linear(64, 64, bias=False), nn.Linear(64, 3)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        turn.weight.copy_(3 * torch.linalg.qr(torch.randn(64, 64, generator=draws))[0])
        top.weight.copy_(torch.randn(3, 64, generator=draws) / 30)
        top.bias.zero_()
    return nn.Sequential(nn.Flatten(), turn, top)


def run(defense: Any, module: nn.Module | None = None, *, cut: str = "1", epochs: int = 3, lr: float = 1e-9) -> Session:
    training = Training(epochs=epochs, batch_size=8, optimizer={"name": "sgd", "lr": lr})
    return train(module or rotation(), toys.data(1), cut=cut, defense=build_defense(defense), training=training)


@pytest.mark.parametrize(
    ("defense", "factor"),
    [
        ({"noise": {"sigma": SIGMA}}, 1.0),
        ({"noise": {"sigma": SIGMA, "law": "laplace"}}, 2.0),
        ({"gaussian": {"sigma": SIGMA, "clip": "none"}}, 1.0),
        ([{"nopeek": {"weight": 0.0}}, {"noise": {"sigma": SIGMA}}], 1.0),
    ],
)
def test_a_scaled_rotation_has_the_closed_form(defense: Any, factor: float) -> None:
    """J^T J = 9 I, so that tr / d = 9 whatever the directions: sigma^2 / (9 T), half of it for Laplace noise."""
    session = run(defense)
    for phase, releases in (("training", 3), ("query", 1)):
        found = unbiased_columns(session, phase)
        assert found["dfil_mse"] == pytest.approx(SIGMA**2 / (9 * releases * factor), rel=1e-5)


def test_a_least_squares_attacker_meets_it() -> None:
    """Over many draws of the noise of one release; it is unbiased, and knows nothing of images."""
    session = run({"noise": {"sigma": SIGMA}})
    [turn] = [parameter.detach() for parameter in session.split.head.parameters()]
    truth = session.data.query.inputs.flatten(1)
    noise = SIGMA * torch.randn(4000, *truth.shape, generator=torch.Generator().manual_seed(1))
    guess = torch.linalg.solve(turn.double(), (truth @ turn.T + noise).double().flatten(0, 1).T).T
    error = (guess.view_as(noise) - truth).square().mean()
    assert float(error) == pytest.approx(float(unbiased_columns(session, "query")["dfil_mse"] or 0), rel=0.01)


def test_a_clip_hides_the_direction_it_clips() -> None:
    """Rows far outside a clip C: J projects orthogonally to z and scales by C / ||z||: tr = 9 (d - 1) (C / ||z||)^2."""
    clip = 0.1
    session = run({"gaussian": {"sigma": SIGMA, "clip": clip}})
    norms = 3 * session.data.query.inputs.flatten(1).norm(dim=1).double()
    trace = float((9 * 63 * (clip / norms) ** 2).mean())
    found = unbiased_columns(session, "query")["dfil_mse"]
    assert found == pytest.approx(SIGMA**2 * 64 / trace, rel=0.05)


def test_the_heads_that_made_the_releases_count_and_not_the_last_one() -> None:
    session = run({"noise": {"sigma": SIGMA}}, toys.lenet(dropout=0.0), cut="conv2", lr=0.3)
    rows = session.transcript.releases("training")
    assert rows is not None
    exact, last = torch.zeros(()), torch.zeros(())
    for release in range(len(rows)):
        one = rows.where(torch.tensor([release]))
        x = session.truth(one.ids).inputs
        head = models_of(session).head(int(one.head))
        exact = exact + jacobian_trace(head, x).sum()
        last = last + jacobian_trace(session.split.head, x).sum()
    count = len(session.data.members)
    told = [SIGMA**2 * 64 / float(each / count) for each in (exact, last)]
    found = float(unbiased_columns(session, "training")["dfil_mse"] or 0)
    assert abs(math.log(told[0] / told[1])) > 0.1  # the head moved, so that the test can fail
    assert found == pytest.approx(told[0], rel=0.06)


class Unknown(Defense):
    """Noise whose law nobody states."""

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed + torch.randn(smashed.shape, generator=generator)

    def noise_std(self) -> float:
        return 1.0


def test_it_is_missing_where_it_is_not_known() -> None:
    for defense in (Defense(), Unknown(), build_defense({"noise": {"sigma": 0.0}})):
        session = train(rotation(), toys.data(1), cut="1", defense=defense, training=Training(epochs=1, batch_size=8))
        assert unbiased_columns(session, "training") == {}
    # Noise under noise: the law of the sum at the wire is nobody's own.
    assert unbiased_columns(run([{"noise": {"sigma": SIGMA}}, {"noise": {"sigma": 0.1}}]), "query") == {}
    half = run({"noise": {"sigma": SIGMA, "phases": ["query"]}})
    assert unbiased_columns(half, "training") == {}
    assert unbiased_columns(half, "query")["dfil_mse"] == pytest.approx(SIGMA**2 / 9)
    dear = dataclasses.replace(half, costs={**half.costs, "client_flops": 1e9})
    assert unbiased_columns(dear, "query") == {}
    lost = run({"noise": {"sigma": SIGMA}})
    lost.transcript.snapshots.clear()
    assert unbiased_columns(lost, "training") == {}
    mixing = train(
        toys.resnet(), toys.data(1), cut="block1", defense=build_defense({"noise": {"sigma": SIGMA}}),
        training=Training(epochs=1, batch_size=8),
    )  # fmt: skip
    assert unbiased_columns(mixing, "training") == {}  # BatchNorm: a row's release depends on the others
    assert float(unbiased_columns(mixing, "query")["dfil_mse"] or 0) > 0


def test_the_same_session_tells_the_same_and_records_carry_it_by_phase() -> None:
    session = run({"noise": {"sigma": SIGMA}})
    outcome = session_outcome(session)
    for phase in ("training", "query"):
        assert outcome.columns(phase)["dfil_mse"] == unbiased_columns(session, phase)["dfil_mse"]
    assert outcome.columns("training")["dfil_mse"] != outcome.columns("query")["dfil_mse"]
    assert "dfil_mse" not in session_outcome(run("none")).columns("query")


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"noise": {"sigma": 0.2}}, 25.0),
        ({"noise": {"sigma": 0.2, "law": "laplace"}}, 50.0),
        ({"gaussian": {"sigma": 0.2}}, 25.0),
        ({"laplace": {"scale": 0.2}}, 25.0),
        ({"cem": {"sigma": 0.2}}, 25.0),
        ({"gaussian": {"sigma": 0.0, "clip": "none"}}, None),
        ("shredder", None),
        ("nopeek", None),
    ],
)
def test_the_information_of_each_defenses_noise(spec: Any, wanted: float | None) -> None:
    defense = DEFENSES.build(spec)
    Bench(defense)
    found = defense.noise_information()
    assert found == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("spec", [{"noise": {"sigma": 0.3, "law": "laplace"}}, {"laplace": {"scale": 0.3}}, "dfil"])
def test_the_information_is_that_of_the_law_it_draws_from(spec: Any) -> None:
    """The score of the stated law, at noise that the defense drew: its mean square is the information."""
    defense = DEFENSES.build(spec)
    Bench(defense)
    zeros = torch.zeros(4000, 4, 6, 6)
    drawn = defense.released_like(zeros, torch.Generator().manual_seed(3)).double() - defense.mean_release(zeros)
    told, std = defense.noise_information(), float(drawn.std())
    assert told is not None
    laplace = defense.noise_law == "laplace" or getattr(defense, "law", "") == "laplace"
    expected = 2 / std**2 if laplace else 1 / std**2
    assert told == pytest.approx(expected, rel=0.02)
    kurtosis = float((drawn**4).mean()) / std**4
    assert kurtosis == pytest.approx(6 if laplace else 3, rel=0.1)


@pytest.mark.slow
def test_the_page_sets_the_best_attack_beside_it(tmp_path: Path) -> None:
    matrix = Matrix({**QUICK, "attack": "toy-noise", "defense": ["none", {"noise": {"sigma": SIGMA}}]})
    results = matrix.run(tmp_path, progress=False)
    noisy = results.frame[results.frame["defense"] != "none"]
    assert noisy["dfil_mse"].notna().all()
    assert results.frame.loc[results.frame["defense"] == "none", "dfil_mse"].isna().all()
    lines = unbiased(deployments(results))
    assert [(line.deployment.number, line.whom) for line in lines] == [(2, "member victims"), (2, "query victims")]
    for line, phase in zip(lines, ("training", "query"), strict=True):
        [row] = [r for r in results.records if r.phase == phase and r.cell.defended() != "none"]
        assert (line.reference, line.best, line.attack) == (row.values["dfil_mse"], row.values["mse"], "toy-noise")
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Unbiased attackers only" in page
    assert f">{lines[0].reference:.3g}<" in page

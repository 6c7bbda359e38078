# SPDX-License-Identifier: Apache-2.0
"""The defenses inside a training: null settings to the bit, counted releases, resuming, and what is then guaranteed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splitguard.api import ATTACKS, DEFENSES, Mode, Phase, build_defense, generator
from splitguard.engine.defense import Context, Defense
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.stack import Stack
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import NotSupported, ReleaseRefused
from tests.engine.toys import data, lenet

WAYS = [(Mode.VANILLA, "pool1"), (Mode.U_SHAPED, "pool1..relu3"), (Mode.SPLITFED, "pool1")]


def run(defense: Any, mode: Mode = Mode.VANILLA, cut: str = "pool1", *, epochs: int = 2, **more: Any) -> Session:
    keys = {"checkpoint", "progress"}
    settings = {k: v for k, v in more.items() if k not in keys}
    training = Training(epochs=epochs, batch_size=8, optimizer={"name": "sgd", "lr": 0.05}, **settings)
    built = defense if isinstance(defense, Defense) else build_defense(defense)
    kept = {k: v for k, v in more.items() if k in keys}
    return train(lenet(), data(2), mode=mode, cut=cut, defense=built, training=training, **kept)


def refuses_more(session: Session) -> bool:
    """Whether every single training row was sent as often as planned."""
    once = torch.zeros(1, *session.cut_shapes[0])
    for row in session.data.train.ids[:, None]:
        with pytest.raises(ReleaseRefused):
            session.defense.on_send(once, Context(row, 0, 3, 99, Phase.TRAINING), torch.Generator())
    return True


@pytest.mark.parametrize(("mode", "cut"), WAYS)
def test_null_settings_train_the_undefended_network_to_the_bit(mode: Mode, cut: str) -> None:
    plain = run("none", mode, cut)
    nulls: list[dict[str, Any]] = [{n: cls.null} for n in DEFENSES if (cls := type(DEFENSES.build(n))).null is not None]
    accepted, refused = [], set()
    for null in nulls:
        try:
            session = run(null, mode, cut)
        except NotSupported:
            refused |= set(null)  # it has no place here: labels are not sent, say
            continue
        accepted.append(null)
        assert (session.digest, session.accuracy) == (plain.digest, plain.accuracy), null
        assert session.guarantees == ()
    detectors = {"gradient-scrutinizer", "outlier-probe"}  # they listen to what comes back for labels that are sent
    assert refused == (detectors if mode is Mode.U_SHAPED else set())
    for stack in (Stack([DEFENSES.build(n) for n in accepted]), Stack()):
        session = run(stack, mode, cut)
        assert (session.digest, session.accuracy) == (plain.digest, plain.accuracy)


@pytest.mark.parametrize(("mode", "cut"), WAYS)
@pytest.mark.parametrize("evaluate", ["last", "epoch"])
def test_exactly_the_planned_releases_are_sent(mode: Mode, cut: str, evaluate: str) -> None:
    session = run({"gaussian": {"epsilon": 50.0}}, mode, cut, epochs=3, evaluate=evaluate)
    [told] = session.guarantees
    assert (told.T, session.releases()) == (3, 3)
    assert refuses_more(session)


@pytest.mark.parametrize(("mode", "cut"), WAYS)
def test_the_whole_view_is_covered_with_a_frozen_head_only(mode: Mode, cut: str) -> None:
    [trained] = run({"gaussian": {"epsilon": 6.0}}, mode, cut).guarantees
    [frozen] = run({"gaussian": {"epsilon": 6.0}}, mode, cut, head="frozen").guarantees
    assert trained.epsilon is None
    assert frozen.epsilon == frozen.epsilon_rows == pytest.approx(6.0)
    assert trained.epsilon_rows == pytest.approx(6.0)


def test_what_crosses_is_the_noisy_release_and_attackers_can_undo_no_more_than_the_mean() -> None:
    session = run({"gaussian": {"sigma": 0.5, "clip": 2.0}}, head="frozen", epochs=4)
    rows = session.transcript.releases("training")
    assert rows is not None
    rows, times = rows.all_of(session.data.members)
    head = session.split.head.eval()
    with torch.no_grad():
        mean = session.defense.mean_release(head(session.truth(session.data.members).inputs))
    noise = rows.smashed - mean.repeat_interleave(times, 0)
    n = noise.numel()
    assert abs(float(noise.std()) / 0.5 - 1) < 4 / (2 * n) ** 0.5
    averaged = noise.view(-1, times, *mean.shape[1:]).mean(1)
    assert abs(float(averaged.std()) / 0.25 - 1) < 4 / (2 * n / times) ** 0.5  # fresh at each sending: sigma / sqrt(T)


def test_an_interrupted_training_goes_on_with_noise_and_ledger(tmp_path: Path) -> None:
    spec: Any = [{"nopeek": {"weight": 0.1}}, {"gaussian": {"epsilon": 50.0}}]
    whole = run(spec, epochs=3)
    stop = tmp_path / "checkpoint"

    def interrupt(progress: Progress) -> None:
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, epochs=3, checkpoint=stop, checkpoint_every=1, progress=interrupt)
    resumed = run(spec, epochs=3, checkpoint=stop, checkpoint_every=1)
    assert resumed.digest == whole.digest
    ones, twos = (s.transcript.releases("training") for s in (whole, resumed))
    assert ones is not None
    assert twos is not None
    assert torch.equal(ones.smashed, twos.smashed)
    assert resumed.guarantees == whole.guarantees
    assert refuses_more(resumed)


def test_a_saved_session_serves_attackers_in_another_process(tmp_path: Path) -> None:
    spec: Any = {"gaussian": {"epsilon": 8.0}}
    session = run(spec)
    session.save(tmp_path)
    loaded = Session.load(tmp_path, module=lenet(), data=data(2), defense=build_defense(spec))
    smashed = torch.randn(3, *session.cut_shapes[0], generator=torch.Generator().manual_seed(0))
    drawn = [s.defense.released_like(smashed, torch.Generator().manual_seed(1)) for s in (session, loaded)]
    assert torch.equal(*drawn)
    assert loaded.defense.privacy() == session.defense.privacy()
    assert loaded.guarantees == session.guarantees


def test_a_deeper_cut_is_the_plain_deployment_there() -> None:
    deeper, plain = run({"deeper-cut": {"layers": 2}}), run("none", cut="conv2")
    assert (deeper.cuts, deeper.digest) == (plain.cuts, plain.digest)
    for key in ("client_params", "client_flops", "bytes_up"):
        assert deeper.costs[key] == plain.costs[key]


def test_nopeek_trains_a_head_that_gives_away_less() -> None:
    from splitguard.metrics.dependence import dcor

    found = []
    for weight in (0.0, 5.0):
        session = run({"nopeek": {"weight": weight}}, cut="fc1", epochs=10)
        rows = session.data.test.inputs
        with torch.no_grad():
            found.append(float(dcor(rows, session.split.head(rows))))
    assert found[1] < found[0] - 0.05


@pytest.mark.parametrize("name", ["gaussian", "laplace", "noise"])
def test_attackers_know_in_which_phase_a_defense_stands_aside(name: str) -> None:
    """A view of clean rows expects no noise, and queries are answered as they are deployed."""
    session = run({name: {"phases": ["training"]}})
    defense = session.defense
    attack = ATTACKS.build("white-box-inversion")
    training, query = (session.view(attack, phase=phase) for phase in ("training", "query"))
    assert training.defense is defense
    assert (training.defense.noise_std() > 0, query.defense.noise_std()) == (True, 0)
    asked = session.view(ATTACKS.build("inverse-network"), phase="query")
    answers = [asked.query(session.data.aux.inputs[:2], generator(seed, "x")) for seed in (0, 1)]
    assert torch.equal(*answers)

# SPDX-License-Identifier: Apache-2.0
"""Model completion, passive and active, in hand-made views and in real sessions."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, ClientAttack, Guess, Labels, Mode, Party, Profile, Rows, Sees, View
from splitguard.building.completion import shifted
from splitguard.data import load
from splitguard.engine.loop import Progress
from splitguard.engine.session import Session
from splitguard.engine.train import train
from splitguard.engine.training import Training
from splitguard.errors import BadSetting, MissingKnowledge
from splitguard.metrics import accuracy
from splitguard.models import make_model
from tests.attacks.views import gen, label_view, network, smooth
from tests.engine import toys


def test_images_are_shifted_and_other_rows_stay() -> None:
    images = torch.rand(4, 1, 28, 28, generator=gen())
    moved = shifted(images, gen(2))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    windows = nn.functional.pad(images, (2,) * 4).unfold(2, 28, 1).unfold(3, 28, 1)  # (4, 1, 5, 5, 28, 28)
    for n in range(4):
        assert any(torch.equal(moved[n, 0], windows[n, 0, i, j]) for i in range(5) for j in range(5))
    for still in (torch.rand(4, 9), torch.rand(4, 1, 8, 8)):  # a pixel is more than a fourteenth of 8
        assert shifted(still, gen()) is still


def patterns(count: int, classes: int = 10, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of one coarse pattern a class, which a shift by a pixel keeps, under noise; and the labels."""
    labels = torch.arange(count) % classes
    noise = torch.rand(count, 1, 8, 8, generator=gen(seed))
    return 0.7 * smooth(classes, seed=77)[labels] + 0.3 * noise, labels


def client_view(labelled_aux: int = 60) -> tuple[View, Tensor]:
    """A client's view of ten classes, with a head of random weights."""
    images, labels = patterns(100)
    view = label_view(torch.zeros(100, 1), labels, list(range(10)), 10, party=Party.CLIENT)
    more, their = patterns(labelled_aux, seed=5)
    aux = Rows(more, their, torch.arange(1000, 1000 + labelled_aux))
    own_head = network(2, [nn.Flatten(), nn.Linear(64, 60), nn.ReLU()])
    models = replace(view.models, head=lambda at: copy.deepcopy(own_head))
    own = Rows(images, labels * 0 - 1, view.context.ids)
    return replace(view, models=models, _inputs=own, _aux=aux), labels[10:]


def run(view: View, name: str = "model-completion", **settings: Any) -> Guess:
    return ATTACKS.build(name, **settings).run(view, gen())


def labels_of(guess: Guess) -> Tensor:
    assert guess.labels is not None
    return guess.labels


def test_ten_classes_from_four_labelled_rows_each() -> None:
    view, labels = client_view()
    guess = run(view, steps=400, lr=1e-2)
    assert accuracy(labels_of(guess), labels) > 0.9
    assert guess.budget.steps == 400
    assert guess.budget.aux == 30  # three a class beside the known sample
    assert guess.settings["labelled_rows"] == 40


def test_the_head_moves_along_only_where_it_is_tuned() -> None:
    """Blind is 0.1; four standard errors of 90 victims are 0.13."""
    view, labels = client_view()
    frozen, tuned = run(view, steps=60, lr=1e-2), run(view, steps=60, lr=1e-2, finetune=True)
    assert accuracy(labels_of(tuned), labels) > 0.3
    assert frozen.scores is not None
    assert tuned.scores is not None
    assert not torch.allclose(frozen.scores, tuned.scores, atol=0.05)


def test_labels_come_from_the_labelled_rows_and_from_nothing_else() -> None:
    view, labels = client_view()
    assert view._known is not None
    assert view._aux is not None
    renamed = replace(
        view,
        _known=replace(view._known, labels=(view._known.labels + 1) % 10),
        _aux=Rows(view._aux.inputs, (view._aux.labels + 1) % 10, view._aux.ids),
    )
    # Whoever ignored the new names would have every label off by one, and score 0 here.
    assert accuracy((labels_of(run(renamed, steps=120, lr=1e-2)) - 1) % 10, labels) > 0.5


def test_one_labelled_row_a_class_reads_no_auxiliary_row() -> None:
    view, _ = client_view()
    guess = run(replace(view, granted=view.granted & ~(Sees.AUX | Sees.QUERY)), labelled=1, steps=3)
    assert guess.budget.aux == 0
    assert guess.settings["labelled_rows"] == 10


def test_without_any_known_label_it_is_refused() -> None:
    view = label_view(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), [], 2)
    with pytest.raises(MissingKnowledge, match="model completion needs one a class"):
        run(view)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labelled": 0}, "labelled must be at least 1; got 0"),
        ({"temperature": 0.0}, r"temperature must lie in \(0, 1\]; got 0.0"),
        ({"average": 1.0}, r"average must lie in \[0, 1\); got 1.0"),
        ({"lr": 0.0}, "lr must be positive; got 0.0"),
        ({"unlabelled": -1.0}, "unlabelled must be 0 or more; got -1.0"),
    ],
)
@pytest.mark.parametrize("name", ["model-completion", "active-completion"])
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        ATTACKS.build(name, **settings)


def active(**settings: Any) -> ClientAttack:
    built = ATTACKS.build("active-completion", **settings)
    assert isinstance(built, ClientAttack)
    return built


def test_gradients_are_scaled_as_the_paper_does_and_the_last_applied_ones_are_kept() -> None:
    attack = active()
    first = [torch.tensor([1.0, -1.0, 2.0, 1e-3, 0.0])]
    assert torch.equal(attack.client_grads(first, 0)[0], first[0])
    second = attack.client_grads([torch.tensor([2.0, -0.5, -3.0, 1.0, 0.0])], 1)[0]
    # 1 + 2/1 = 3; 1 + 1/2; a turned sign leaves it alone; 1 + 1000 is cut to 5
    torch.testing.assert_close(second, torch.tensor([6.0, -0.75, -3.0, 5.0, 0.0]))
    third = attack.client_grads([torch.tensor([6.0, -0.75, -3.0, 5.0, 1.0])], 2)[0]
    torch.testing.assert_close(third, torch.tensor([12.0, -1.5, -6.0, 10.0, 5.0]))


def test_a_gradient_that_would_divide_by_zero_stays_finite() -> None:
    attack = active()
    attack.client_grads([torch.tensor([-1e-7, 1e-7, 0.0])], 0)
    assert bool(torch.isfinite(attack.client_grads([torch.tensor([1.0, -1.0, 1e30])], 1)[0]).all())


def test_without_strength_the_session_is_the_honest_one_to_the_bit() -> None:
    how: dict[str, Any] = {"cut": "conv2", "labels": Labels.SERVER, "training": Training(epochs=2, batch_size=8)}
    honest = train(toys.lenet(), toys.data(2), **how)
    assert train(toys.lenet(), toys.data(2), active=active(gamma=0.0), **how).digest == honest.digest
    assert train(toys.lenet(), toys.data(2), active=active(), **how).digest != honest.digest


def test_a_resumed_session_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """An attack that lost its state would take the first step after the resume unscaled."""
    how: dict[str, Any] = {"cut": "conv2", "labels": Labels.SERVER}
    how["training"] = Training(epochs=2, batch_size=8, checkpoint_every=1)
    whole = train(toys.lenet(), toys.data(1), active=active(), **how)

    class Killed(Exception):
        """Stands in for a kill."""

    def kill(where: Progress) -> None:
        if where.done >= 3:
            raise Killed

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        train(toys.lenet(), toys.data(1), active=active(), checkpoint=file, progress=kill, **how)
    assert file.exists()
    assert train(toys.lenet(), toys.data(1), active=active(), checkpoint=file, **how).digest == whole.digest


@pytest.fixture(scope="module")
def fashion() -> Any:
    """The data: 300 rows of ten classes."""
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("Fashion-MNIST is not on this machine; Debian's package dataset-fashion-mnist brings it")
    return load("fashion-mnist", seed=0, train=300, test=50, aux=80, victims={"member": 8, "query": 4})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("model-completion", {"labels": Labels.SERVER, "cut": "fc1"}),
        ("model-completion", {"mode": Mode.U_SHAPED, "cut": ("conv1", "fc2")}),
        ("active-completion", {"labels": Labels.SERVER, "cut": "fc1"}),
    ],
)
def test_ten_classes_of_fashion_mnist(fashion: Any, name: str, how: dict[str, Any]) -> None:
    """Blind is 0.1; four standard errors of 290 victims are 0.07."""
    attack = ATTACKS.build(name, steps=80)
    session: Session = train(
        make_model("lenet", input_shape=fashion.input_shape, classes=10, seed=0),
        fashion,
        training=Training(epochs=3, batch_size=30),
        active=attack if isinstance(attack, ClientAttack) else None,
        **how,
    )
    view = session.view(attack, profile=Profile.ACTIVE)
    guess = attack.run(view, gen())
    assert accuracy(labels_of(guess), session.truth(view.ids).labels) > 0.3

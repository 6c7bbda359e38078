# SPDX-License-Identifier: Apache-2.0
"""He et al.'s code as it is run beside ours: a batch is one image after the other, and each attack finds its images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import reference_he
from benchmarks.he2019 import Pixels, decoded, inverted, shadow
from benchmarks.reference_he import CUTS, USED, _finished, case, theirs, written
from benchmarks.sessions import trained
from benchmarks.timing import write
from splitguard.api import ATTACKS
from splitguard.engine.cut import split
from splitguard.engine.session import Session
from splitguard.metrics import psnr
from splitguard.models import make_model
from splitguard.seeding import drawing
from tests.attacks.views import smooth

PIXELS = Pixels([0.5], [0.25])


MATRIX: dict[str, Any] = {
    "data": {"name": "faces", "train": 64, "test": 16, "aux": 64, "victims": {"member": 1, "query": 3}},
    "model": "lenet",
    "train": {"epochs": 1, "batch_size": 32},
}


def shortened(work: Callable[..., Any], less: dict[str, int]) -> Callable[..., Any]:
    return lambda *args, **kwargs: work(*args, **(kwargs | less))


def conv() -> nn.Module:
    with drawing(0):
        return nn.Conv2d(1, 6, 3, padding=1).requires_grad_(False)


def test_pixels_are_normalised_and_back() -> None:
    images = smooth(3)
    assert torch.allclose(PIXELS.images(PIXELS.normalised(images)), images, atol=1e-6)
    assert torch.allclose(PIXELS.normalised(images), (images - 0.5) / 0.25)


def test_a_batch_is_inverted_as_one_image_after_the_other() -> None:
    images, head = smooth(3), conv()
    together = inverted(head, head(images), images.shape[1:], PIXELS, steps=400, tv=0)
    alone = [inverted(head, head(one), one.shape[1:], PIXELS, steps=400, tv=0) for one in images.split(1)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    assert float(psnr(together, images).min()) > 25
    flat = inverted(head, head(images), images.shape[1:], PIXELS, steps=400, tv=1e3)
    assert float(flat.flatten(1).std(1).max()) < 0.2 * float(images.flatten(1).std(1).min())


def test_a_decoder_learns_the_way_back() -> None:
    images, known, head = smooth(4), smooth(640, seed=3), conv()
    with drawing(1):
        decoder = nn.ConvTranspose2d(6, 1, 3, padding=1)
    draws = torch.Generator().manual_seed(0)
    found = decoded(decoder, (head(known), known), head(images), PIXELS, epochs=40, generator=draws)
    assert float(psnr(found, images).mean()) > 6 + float(
        psnr(known.mean(0, keepdim=True).expand_as(images), images).mean()
    )


def test_a_shadow_learns_the_task_under_frozen_layers() -> None:
    inputs = 3 * torch.randn(2560, 5, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long()
    with drawing(2):
        body, fresh = nn.Linear(4, 2), nn.Linear(5, 4)
    before = body.weight.detach().clone()
    head = shadow(fresh, body, (inputs, labels), epochs=40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(body.weight, before)
    assert float((body(head(inputs)).argmax(1) == labels).float().mean()) > 0.9


@pytest.mark.parametrize(("name", "model", "shape"), [("mnist", "lenet", (1, 28, 28)), ("cifar", "cnn", (3, 32, 32))])
def test_the_decoders_fit_the_cuts(name: str, model: str, shape: tuple[int, ...]) -> None:
    for cut, (_, make) in CUTS[name].items():
        head = split(make_model(model, input_shape=shape, classes=10, seed=0), cut).head
        assert make()(head(torch.zeros(2, *shape))).shape == (2, *shape)


def test_a_run_goes_on_where_one_of_the_same_matrix_and_images_stopped(tmp_path: Path) -> None:
    out, cases, matrix = tmp_path / "out.json", {"query-free at conv11": {"ssim": {"n": 10}}}, {"attack": "query-free"}
    assert _finished(None, matrix, 10) == _finished(out, matrix, 10) == {}
    write(out, {"matrix": matrix, "images": 10, "cases": cases}, USED)
    assert _finished(out, matrix, 10) == cases
    assert _finished(out, matrix, 20) == {}
    assert _finished(out, {"attack": {"query-free": {"lr": 0.1}}}, 10) == {}
    older = json.loads(out.read_text())
    older["versions"]["query-free"] -= 1
    out.write_text(json.dumps(older))
    assert _finished(out, matrix, 10) == {}


@pytest.mark.parametrize(("count", "seen"), [(2, 2), (None, 3)])
def test_both_sides_guess_at_the_same_images(count: int | None, seen: int) -> None:
    session = trained(MATRIX, cut="conv1", seed=0)
    view = session.view(ATTACKS.build("inverse-network"), phase="query")

    def mid_grey(given: Session, sent: torch.Tensor) -> torch.Tensor:
        assert given is session
        assert torch.equal(sent, view.releases.last(view.ids[:count]).smashed)
        return torch.full_like(session.truth(view.ids).inputs[:seen], 0.5)

    found = case(session, {"inverse-network": {"steps": 60}}, mid_grey, count)
    truth = session.truth(view.ids).inputs[:seen]
    assert found["mse"]["n"] == seen
    assert found["mse"]["reference"] == pytest.approx(float((truth - 0.5).square().mean()), abs=1e-6)
    assert found["mse"]["ours"] < found["mse"]["reference"]


@pytest.mark.parametrize("attack", USED)
def test_each_of_their_attacks_guesses_at_all_that_was_sent(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"inverted": {"steps": 2}, "decoded": {"epochs": 1}, "shadow": {"epochs": 1}}
    for name, less in few.items():
        monkeypatch.setattr(reference_he, name, shortened(getattr(reference_he, name), less))
    session = trained(MATRIX, cut="conv1", seed=0)
    view = session.view(ATTACKS.build("inverse-network"), phase="query")
    guess = theirs(attack, "mnist", "conv1", session, view.releases.last(view.ids).smashed)
    assert guess.shape == session.truth(view.ids).inputs.shape
    assert 0 <= float(guess.min()) < float(guess.max()) <= 1


def test_our_settings_are_those_of_the_cut_where_the_matrix_has_blocks() -> None:
    plain = {"cut": ["conv1", "conv2"], "attack": ["query-free", {"inverse-network": {"steps": 5}}]}
    assert written(plain, "conv2") == {"query-free": "query-free", "inverse-network": {"inverse-network": {"steps": 5}}}
    blocks = {"blocks": [{"cut": "conv1", "attack": [{"query-free": {"steps": 9}}]}, {**plain, "cut": "conv2"}]}
    assert written(blocks, "conv1") == {"query-free": {"query-free": {"steps": 9}}}
    assert written(blocks, "conv2") == written(plain, "conv2")

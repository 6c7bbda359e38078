# SPDX-License-Identifier: Apache-2.0
"""What must not touch each other in one run: attacks that watch one training, and data of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitguard.matrix import Matrix, Results
from tests.matrix.toys import QUICK


def run(out: Path, **more: Any) -> Results:
    return Matrix({**QUICK, **more}).run(out, progress=False)


@pytest.mark.slow
def test_a_watching_attack_that_breaks_does_not_cost_those_beside_it(tmp_path: Path) -> None:
    both = ["toy-watches", {"toy-watches": {"breaks_at": 2}}]
    for attack in (both, both[::-1]):
        results = run(tmp_path / str(attack is both), attack=attack)
        told = results.frame.set_index("attack")["status"].groupby(level=0).agg(set).to_dict()
        assert told == {"toy-watches": {"ok"}, "toy-watches(breaks_at=2)": {"failed"}}
    alone = run(tmp_path / "alone", attack="toy-watches")
    good = results.frame[results.frame["attack"] == "toy-watches"]
    assert list(good["ssim"]) == list(alone.frame["ssim"])


def test_data_that_changed_on_disk_are_read_again_in_the_same_process(tmp_path: Path) -> None:
    draws, path = np.random.default_rng(0), tmp_path / "d.npz"
    found = []
    for number in range(2):
        images = draws.integers(0, 255, (300, 8, 8), dtype=np.uint8)
        np.savez(path, train_images=images, train_labels=np.arange(300) % 3)
        data = {**QUICK["data"], "name": "npz", "path": str(path)}
        results = run(tmp_path / str(number), data=data, model="mlp", cut="fc1", attack="toy-noise")
        found.append((results.records[0].cell.data["digest"], results.records[0].extra["data_digest"]))
    assert len({digest for digest, _ in found}) == len({digest for _, digest in found}) == 2


@pytest.mark.slow
def test_the_profile_of_a_record_is_that_of_what_was_read(tmp_path: Path) -> None:
    def profiles(profile: str, **more: Any) -> set[str]:
        how = {"mode": "u-shaped", "cut": "conv1", "attack": "membership", "profile": profile, **more}
        return set(run(tmp_path / f"{profile}{len(more)}", **how).frame["profile"])

    # In u-shaped it goes by the client's last layers where it has them, else by layers of its own.
    assert profiles("black-box") == {"black-box"}
    assert profiles("head-known") == {"head-known"}
    assert profiles("head-known", attack="gradient-cosine") == {"black-box"}

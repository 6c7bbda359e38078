# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, its exit status, and that bad use never ends in a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from splitguard import cli


class Ran:
    """What one command printed, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Ran]


@pytest.fixture
def splitguard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["splitguard", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        caught = capsys.readouterr()
        return Ran(status, caught.out, caught.err)

    return run


def test_attacks_are_listed_with_what_a_reader_needs_to_choose(splitguard: Run) -> None:
    rows = json.loads(splitguard("list", "attacks", "--json").out)
    by_name = {row["name"]: row for row in rows}
    assert by_name["white-box-inversion"]["least profile"] == "head-known"
    assert by_name["inverse-network"]["least profile"] == "query"
    assert by_name["gradient-norm"]["goal"] == "labels"
    assert all(set(row) == {"name", "goal", "seat", "adversary", "least profile", "needs", "paper"} for row in rows)


@pytest.mark.parametrize("kind", ["attacks", "defenses", "models", "datasets", "modes"])
def test_everything_can_be_listed_and_shown(splitguard: Run, kind: str) -> None:
    rows = json.loads(splitguard("list", kind, "--json").out)
    assert rows
    assert all(len(row.get("what", "documented")) > 5 for row in rows)
    if kind != "modes":
        shown = splitguard("show", rows[0]["name"])
        assert shown.status == 0
        assert rows[0]["name"] in shown.out


def test_calibrate_prints_the_published_multipliers(splitguard: Run) -> None:
    out = json.loads(splitguard("calibrate", "--epsilon", "8", "--releases", "10", "--json").out)
    sigma = {row["adjacency"]: row for row in out["rows"]}
    assert sigma["zero-out"]["sigma"] == pytest.approx(1.898, abs=2e-3)
    assert sigma["replace-one"]["sigma"] == pytest.approx(2 * 1.898, abs=4e-3)
    for row in out["rows"]:
        assert row["sigma"] <= row["sigma_prv"] <= row["sigma"] * 1.01


def test_cuts_lists_what_each_cut_costs(splitguard: Run) -> None:
    rows = json.loads(splitguard("cuts", "resnet18", "--input", "3x32x32", "--json").out)
    names = [row["name"] for row in rows]
    assert {"layer1", "layer2", "layer3", "layer4"} <= set(names)
    layer1 = rows[names.index("layer1")]
    assert layer1["bytes"] == 4 * 64 * 32 * 32
    assert [r["client_params"] for r in rows] == sorted(r["client_params"] for r in rows)
    assert splitguard("cuts", "lenet", "--input", "1x28x28").out.count("conv1") >= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "atacks"], "attacks"),
        (["show", "gausian"], "Did you mean 'gaussian'"),
        (["check", "no-such"], "unknown attack or defense"),
        (["cuts", "lenett"], "Did you mean 'lenet'"),
        (["cuts", "lenet", "--input", "32,32"], "a shape such as 3x32x32"),
        (["calibrate", "--epsilon", "-1"], "epsilon"),
        (["run", "absent.yaml", "--out", "x"], "absent.yaml"),
        (["report", "absent"], "not a run folder"),
        (["train", "--out", "x", "--set", "epochs"], "KEY=VALUE"),
        (["train", "--out", "x", "--set", "epoch=3"], "Did you mean 'epochs'"),
        (["train", "--out", "x", "--mode", "u-shape"], "Did you mean 'u-shaped'"),
        (["train", "--out", "x", "--cut", "conv9"], "Known: "),
        (["attack", "white-box-inversion", "--session", "absent"], "not written by"),
        (["new", "attack", "Bad Name"], "lower case"),
        (["new", "defense", "gaussian"], "already"),
    ],
)
def test_bad_use_ends_with_a_message_and_status_2(
    splitguard: Run, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = splitguard(*arguments)
    assert ran.status == 2
    assert said in ran.err
    assert "Traceback" not in ran.err + ran.out


def test_train_then_attack_without_a_matrix_file(splitguard: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "session")
    trained = splitguard(
        "train", "--out", folder, "--cut", "conv1", "--set", "epochs=2", "--set", "batch_size=16",
        "--defense", "{gaussian: {epsilon: 200}}", "--json",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    facts = json.loads(trained.out)
    assert 0 <= facts["accuracy"] <= 1
    assert facts["guarantees"][0]["delta"] == 1e-5
    ran = splitguard("attack", "candidate-match", "--session", folder, "--json")
    assert ran.status == 0, ran.err
    assert 0 <= json.loads(ran.out)["scores"]["choice_accuracy"] <= 1
    refused = splitguard("attack", "gradient-norm", "--session", folder)
    assert refused.status == 2
    assert "is given the labels" in refused.err


def test_init_writes_a_matrix_that_can_be_planned(splitguard: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert splitguard("init", str(file)).status == 0
    assert yaml.safe_load(file.read_text())["model"] == "lenet"
    planned = splitguard("run", str(file), "--out", str(tmp_path / "run"), "--dry-run")
    assert planned.status == 0, planned.err
    assert "trainings" in planned.out
    assert splitguard("init", str(file)).status == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attack", "defense"])
def test_new_writes_a_file_that_registers_and_can_be_checked(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splitguard"]
    made = subprocess.run(
        [*command, "new", kind, "my-own", "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    script = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); import my_own;"
        "from splitguard.api import ATTACKS, DEFENSES;"
        f"print('my-own' in ({'ATTACKS' if kind == 'attack' else 'DEFENSES'}))"
    )
    seen = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert seen.stdout.strip() == "True", seen.stderr


FORGETFUL = """
import dataclasses

from splitguard.defenses.gaussian import Gaussian

@dataclasses.dataclass(kw_only=True)
class OneRelease(Gaussian):
    'Calibrated for one release, whatever it claims.'

    def on_send(self, smashed, ctx, generator):
        sent = super().on_send(smashed, ctx, generator)
        return smashed + (sent - smashed) / 2 if self.sigma is None else sent

Number = 3
"""


@pytest.mark.slow
def test_a_false_claim_from_outside_is_found_and_a_true_one_is_not(
    splitguard: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside.py").write_text(FORGETFUL)
    monkeypatch.syspath_prepend(tmp_path)
    game = ("--set", "epsilon=4", "--trials", "200", "--batch", "2", "--json")
    false = splitguard("estimate", "--module", "outside:OneRelease", *game)
    assert (false.status, json.loads(false.out)["flagged"]) == (1, True)
    true = splitguard("estimate", "gaussian", *game)
    assert (true.status, json.loads(true.out)["flagged"]) == (0, False)
    assert json.loads(true.out)["claim"]["epsilon"] == pytest.approx(4)


def test_a_claim_about_labels_is_tested_where_there_is_none_about_inputs(splitguard: Run) -> None:
    ran = splitguard("estimate", "label-dp", "--set", "epsilon=2", "--trials", "60", "--batch", "4", "--json")
    found = json.loads(ran.out)
    assert (ran.status, found["flagged"], found["channel"], found["measure"]) == (0, False, "labels", "epsilon")
    assert (found["claim"]["epsilon"], found["claim"]["delta"]) == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of them"),
        (("gausian",), "Did you mean 'gaussian'"),
        (("deeper-cut",), "claims no epsilon"),
        (("gaussian", "--shape", "4by4"), "a shape such as"),
        (("--module", "outside"), "package.file:Class"),
        (("--module", "no.such:Thing"), "importable"),
        (("--module", "splitguard.defenses.gaussian:Gausian"), "Did you mean 'Gaussian'"),
        (("gaussian", "--batch", "1"), "batch of 2 rows"),
        (("gaussian", "--channel", "label"), "Did you mean 'labels'"),
        (("gaussian", "--channel", "labels"), "claims no epsilon for the labels"),
        (("label-dp", "--channel", "inputs"), "claims no epsilon for the inputs"),
        (("label-dp", "--classes", "1"), "2 classes or more"),
    ],
)
def test_estimate_refuses_what_it_cannot_play(splitguard: Run, arguments: tuple[str, ...], message: str) -> None:
    ran = splitguard("estimate", *arguments)
    assert ran.status == 2
    assert message in " ".join(ran.err.split())

# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, its exit status, and that bad use never ends in a traceback."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from splitguard.api import ATTACKS, DEFENSES, Attack
from splitguard.registry import Broken
from tests.commands import Run, runner


@pytest.fixture
def splitguard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""
    return runner(monkeypatch, capsys)


def test_attacks_are_listed_with_what_a_reader_needs_to_choose(splitguard: Run) -> None:
    rows = json.loads(splitguard("list", "attacks", "--json").out)
    by_name = {row["name"]: row for row in rows}
    assert by_name["white-box-inversion"]["least profile"] == "head-known"
    assert by_name["inverse-network"]["least profile"] == "query"
    assert by_name["gradient-norm"]["goal"] == "labels"
    assert all(set(row) == {"name", "goal", "seat", "adversary", "least profile", "needs", "paper"} for row in rows)
    assert by_name["fsha"]["paper"].startswith("Pasquini, Ateniese, Bernaschi, ")
    assert [splitguard("list", "attacks").out.count(author) for author in ("Pasquini", "Ateniese")] == [1, 0]


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
    assert splitguard("cuts", "{resnet20: {norm: group}}", "--input", "3x8x8").out.count("layer1") >= 1


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
@pytest.mark.parametrize(
    ("kind", "failing"), [("attack", ["better than a blind guess"]), ("defense", [])], ids=["attack", "defense"]
)
def test_new_writes_a_file_that_the_command_it_prints_checks(kind: str, failing: list[str], tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m splitguard"
    made = subprocess.run(
        f"{command} new {kind} my-own --folder 'a folder'", shell=True, capture_output=True, text=True, check=False,
        cwd=_made(tmp_path / "a folder").parent,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    _, _, checking = made.stdout.strip().partition("then run: ")
    assert checking == "PYTHONPATH='a folder' splitguard check my_own:MyOwn"
    checked = subprocess.run(
        f"{checking} --json".replace("splitguard", command), shell=True, capture_output=True, text=True, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert checked.returncode == int(bool(failing)), checked.stderr
    promises = json.loads(checked.stdout)
    assert [p["name"] for p in promises if not p["passed"]] == failing
    null = [p["detail"] for p in promises if p["name"] == "does nothing at its null settings"]
    assert null == (["{'scale': 1.0}"] if kind == "defense" else [])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_new_beside_the_others_is_checked_by_name() -> None:
    from splitguard.terminal import listing

    folder = ATTACKS.folders()[0]
    assert (folder / "fsha.py").exists()
    assert listing._checking(folder / "my_own.py", "my-own", "MyOwn", ATTACKS) == "splitguard check my-own"


def test_show_takes_json(splitguard: Run) -> None:
    found = json.loads(splitguard("show", "gaussian", "--json").out)
    assert (found["name"], found["kind"], found["settings"]["clip"]) == ("gaussian", "defense", "auto")
    assert found["what"]


def test_what_is_registered_without_a_goal_is_listed_as_broken(
    splitguard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry, name, thing in ((ATTACKS, "no-goal", type("NoGoal", (Attack,), {})), (ATTACKS, "no-class", dict),
                                  (DEFENSES, "no-class", dict)):  # fmt: skip
        registry.load()
        monkeypatch.setitem(registry._found, name, thing)
    attacks = {row["name"]: row for row in json.loads(splitguard("list", "attacks", "--json").out)}
    assert (attacks["no-goal"]["goal"], attacks["no-goal"]["needs"]) == ("broken", "the class attribute goal, a Goal")
    assert attacks["no-class"]["goal"] == "broken"
    assert attacks["fsha"]["goal"] == "inputs"
    defenses = {row["name"]: row for row in json.loads(splitguard("list", "defenses", "--json").out)}
    assert defenses["no-class"]["acts on"] == "broken"
    assert splitguard("list", "attacks").status == 0


def test_doctor_lists_a_broken_plugin(splitguard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ATTACKS.load()
    monkeypatch.setitem(
        ATTACKS._broken, "theirs", Broken("theirs", "their-plugins", "theirs.file", "KeyError: 'x[/b]'")
    )
    ran = splitguard("doctor", "--json")
    assert ran.status == 1
    [row] = [row for row in json.loads(ran.out) if row["what"] == "attack: theirs"]
    assert row["state"] == "broken"
    assert "their-plugins" in row["detail"]
    assert splitguard("doctor").status == 1  # and brackets are no markup
    for command in ("show", "check"):
        refused = splitguard(command, "theirs")
        assert refused.status == 2
        assert "theirs.file raised KeyError" in refused.err


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

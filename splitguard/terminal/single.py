# SPDX-License-Identifier: Apache-2.0
"""``splitguard train`` and ``splitguard attack``: one deployment without a matrix file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from splitguard.errors import BadSetting

__all__ = ["attack", "train"]


def parse_yaml(text: str, option: str) -> Any:
    """A value as in a matrix file."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadSetting(f"{option}: {text!r} is not YAML: {error}") from None


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs, values as YAML."""
    out = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadSetting(f"--set takes KEY=VALUE, as in --set epochs=5; got {pair!r}")
        out[key] = parse_yaml(value, f"--set {key}")
    return out


def train(
    out: Path,
    *,
    model: str,
    data: str,
    mode: str,
    cut: str | None,
    labels: str | None,
    defense: str,
    seed: int,
    settings: list[str],
    as_json: bool,
) -> None:
    """Trains one deployment, saves it under ``out`` and prints its numbers."""
    from splitguard import facade
    from splitguard.data import load as load_data

    deployment = {
        "model": parse_yaml(model, "--model"),
        "data": parse_yaml(data, "--data"),
        "defense": parse_yaml(defense, "--defense"),
        "seed": seed,
    }
    session = facade.train(
        **{**deployment, "data": load_data(deployment["data"], seed=seed)},
        mode=mode,
        cut=cut,
        labels=labels,
        training=parse_settings(settings),
        progress=not as_json,
    )
    session.save(out)
    (out / "deployment.json").write_text(json.dumps(deployment, indent=1))
    results = session.results()
    if as_json:
        print(json.dumps(results))
        return
    print(f"saved {out}")
    print(f"{session.mode}, labels: {session.labels}, cut {'..'.join(session.cuts)}: accuracy {session.accuracy:.3f}")
    for name, value in session.costs.items():
        print(f"  {name:18} {value:,.6g}")
    for guarantee in session.guarantees:
        print(f"  {guarantee}")


def attack(
    name: str,
    folder: Path,
    *,
    phase: str,
    profile: str,
    adaptive: bool,
    seed: int,
    settings: list[str],
    as_json: bool,
) -> None:
    """Runs one attack on a saved session and prints the scores."""
    from splitguard import facade
    from splitguard.data import load as load_data
    from splitguard.engine.session import Session
    from splitguard.engine.threat import Profile
    from splitguard.models import make_model
    from splitguard.seeding import generator

    if phase not in ("training", "query"):
        raise BadSetting(f"--phase is training or query; got {phase!r}")
    path = folder / "deployment.json"
    if not path.exists():
        raise BadSetting(f"{folder} was not written by `splitguard train`: it holds no deployment.json")
    deployment = json.loads(path.read_text())
    data = load_data(deployment["data"], seed=deployment["seed"])
    module = make_model(
        deployment["model"], input_shape=data.input_shape, classes=data.classes, seed=deployment["seed"]
    )
    loaded = Session.load(folder, module=module, data=data, defense=facade.defense(deployment["defense"]))
    session = facade.Trained.of(loaded)
    attacker = facade.attack(name, **parse_settings(settings))
    view = session.view(attacker, phase=phase, profile=Profile.parse(profile), adaptive=adaptive)
    guess = attacker.run(view, generator(seed, "attack"))
    scores = session.score(guess)
    budget = dataclasses.asdict(guess.budget)
    if as_json:
        print(json.dumps({"attack": name, "phase": phase, "scores": scores, "budget": budget}))
        return
    print(f"{name}, {phase} victims, {view.party} with profile {view.profile}")
    for key, value in scores.items():
        print(f"  {key:18} {value:.4f}" if isinstance(value, float) else f"  {key:18} {value}")
    print(f"  budget             {', '.join(f'{k} {v:.4g}' for k, v in budget.items())}")

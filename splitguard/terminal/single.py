# SPDX-License-Identifier: Apache-2.0
"""``splitguard train`` and ``splitguard attack``: one deployment without a matrix file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from splitguard.errors import BadSetting, near_miss

__all__ = ["as_entry", "attack", "train"]


def parse_option(text: str, option: str) -> Any:
    """The value of an option, read as in a matrix file."""
    from splitguard.matrix.reading import parse_yaml

    return parse_yaml(text, f"{option} {text!r}")[0]


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """``KEY=VALUE`` pairs, values as YAML."""
    out = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadSetting(f"--set takes KEY=VALUE, as in --set epochs=5; got {pair!r}")
        out[key] = parse_option(value, f"--set {key}")
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
    from splitguard.engine.threat import Mode

    given = {"--model": model, "--data": data, "--defense": defense}
    deployment = {option.strip("-"): as_entry(text, option) for option, text in given.items()}
    deployment["seed"] = seed
    training = parse_settings(settings)
    if mode not in tuple(Mode):
        raise BadSetting(near_miss(mode, [m.value for m in Mode], what="mode"))
    rows = load_data(deployment["data"], seed=seed)
    with _folder(out):
        session = facade.train(
            **{**deployment, "data": rows},
            mode=mode,
            cut=cut,
            labels=labels,
            training=training,
            progress=not as_json,
        )
    session.save(out)
    (out / "deployment.json").write_text(json.dumps(deployment, indent=1))
    results = session.results()
    if as_json:
        print(json.dumps(results))
        return
    print(f"saved {out}")
    accuracy = "—" if session.accuracy is None else f"{session.accuracy:.3f}"
    print(f"{session.mode}, labels: {session.labels}, cut {'..'.join(session.cuts) or '—'}: accuracy {accuracy}")
    for name, value in session.costs.items():
        print(f"  {name:18} {value:,.6g}")
    for guarantee in session.guarantees:
        print(f"  {guarantee}")


def as_entry(text: str, option: str) -> Any:
    """A model, a data set or a defense as in a matrix file, plain data; defenses may be listed."""
    from splitguard.matrix.plugins import plain

    value = plain(parse_option(text, option))
    listed = value if option == "--defense" and isinstance(value, list) else [value]
    if not listed or not all(isinstance(item, str | dict) and item for item in listed):
        raise BadSetting(f"{option} is a name, or {{name: {{setting: value}}}} as in a matrix file; got {text!r}")
    return plain(value)


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Makes the folder of a session before anything is trained; takes it away again if that comes to nothing."""
    if (out / "deployment.json").exists():
        raise BadSetting(f"--out {out} holds a session already; name another folder, or delete it")
    if out.exists() and not out.is_dir():
        raise BadSetting(f"--out {out} is a file; name a folder")
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def _deployment(folder: Path) -> dict[str, Any]:
    """What `train` noted about the session in a folder."""
    path = folder / "deployment.json"
    if not path.exists():
        raise BadSetting(f"{folder} was not written by `splitguard train`: it holds no deployment.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadSetting(f"{path} is damaged ({error}); train the session again") from None
    absent = {"model", "data", "defense", "seed"} - set(found if isinstance(found, dict) else ())
    if absent:
        raise BadSetting(f"{path} is damaged: it lacks {', '.join(sorted(absent))}; train the session again")
    return dict(found)


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
    deployment = _deployment(folder)
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
    budget = {**dataclasses.asdict(guess.budget), "known": view.known_read}
    if as_json:
        print(json.dumps({"attack": name, "phase": phase, "scores": scores, "budget": budget}))
        return
    print(f"{name}, {phase} victims, {view.party} with profile {view.profile}")
    for key, value in scores.items():
        print(f"  {key:18} {value:.4f}" if isinstance(value, float) else f"  {key:18} {value}")
    print(f"  budget             {', '.join(f'{k} {v:.4g}' for k, v in budget.items())}")

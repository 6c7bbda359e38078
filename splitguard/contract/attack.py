# SPDX-License-Identifier: Apache-2.0
"""The contract that every registered attack passes."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from splitguard.api import ATTACKS, Attack, Goal, Labels
from splitguard.contract.kept import described, survive_yaml, tried_all
from splitguard.engine.beats import better_than_blind
from splitguard.engine.promises import Broken, Check, need
from splitguard.engine.trial import Run, Trial
from splitguard.errors import MissingKnowledge
from splitguard.seeding import generator

__all__ = ["check_attack", "promises"]


def check_attack(name: str) -> list[Check]:
    """Runs the contract in seconds, on the toy task of the attack's goal, with a small network.

    The attack runs with its default settings, or, where those would take minutes, with the ones in its class attribute
    ``quick``, a mapping.

    Args:
        name: of a registered attack.

    Returns:
        One `Check` for each promise; the first alone where the attack does not build with its defaults.

    Raises:
        UnknownName: if there is no such attack.
    """
    ATTACKS.get(name)
    return tried_all(promises(name))


def promises(name: str) -> dict[str, Callable[[], str]]:
    """Every promise, the first one first; each answers with what it found or raises."""
    trial = Trial(functools.partial(quick, name))
    return {
        "builds with its defaults": functools.partial(builds, name),
        "is described": functools.partial(described, ATTACKS, name),
        "settings survive YAML": functools.partial(survive_yaml, ATTACKS, name),
        "answers for every victim, in range": lambda: answers(trial),
        "same generator, same answer": lambda: repeats(trial),
        "leaves global randomness alone": lambda: draws_alone(trial),
        "leaves the view alone": lambda: reads_only(trial),
        "refuses a view without what it needs": lambda: refuses(trial),
        "better than a blind guess": lambda: beats_blind(trial),
    }


def builds(name: str) -> str:
    """A dataclass derived from Attack, whose fields have defaults, with a goal and a threat."""
    cls = ATTACKS.get(name)
    need(isinstance(cls, type) and issubclass(cls, Attack), f"{cls!r} is no class derived from Attack")
    need("__dataclass_fields__" in vars(cls), "the class needs @dataclass above it: its fields are the settings")
    attack = ATTACKS.build(name)
    for part in ("goal", "threat"):
        need(hasattr(attack, part), f"the class attribute {part} is missing")
    return repr(attack)


def quick(name: str) -> Attack:
    """The attack with the settings that the contract runs it with."""
    return ATTACKS.build({name: dict(type(ATTACKS.build(name)).quick)})


def answers(trial: Trial) -> str:
    """The field that its goal asks for, one row a victim, finite and in range."""
    view, guess = trial.first.view, trial.first.guess
    victims = len(view.ids)
    need(torch.equal(guess.ids, view.ids), f"ids must be view.ids, all {victims} in that order; got {guess.ids}")
    spent = (guess.budget.steps, guess.budget.queries, guess.budget.aux, guess.budget.seconds)
    need(min(spent) >= 0, f"the budget must be 0 or more; got {guess.budget}")
    match trial.make().goal:
        case Goal.INPUTS:
            _checked(guess.images, "images", (victims, *view.input_shape), 0, 1)
        case Goal.LABELS | Goal.ATTRIBUTE as goal:
            values = view.classes if goal is Goal.LABELS else (view.attribute_classes or 0)
            need(guess.labels is not None or guess.scores is not None, "neither labels nor scores were handed over")
            if guess.labels is not None:
                _checked(guess.labels, "labels", (victims,), 0, values - 1)
            if guess.scores is not None:
                _checked(guess.scores, "scores", (victims, values))
        case Goal.CANDIDATES:
            _checked(guess.choices, "choices", (victims,), 0, len(view.candidates) - 1)
        case Goal.MEMBERSHIP:
            _checked(guess.scores, "scores", (victims, 2))
        case Goal.FUNCTIONALITY:
            _fits(trial.first)
    return f"{victims} victims, {view.mode} at {'..'.join(view.cuts)}"


def _checked(
    value: Tensor | None, what: str, shape: tuple[int, ...], low: float = -math.inf, high: float = math.inf
) -> None:
    if value is None:
        raise Broken(f"{what} were not handed over")
    need(tuple(value.shape) == shape, f"{what} must have shape {shape}; got {tuple(value.shape)}")
    need(not value.requires_grad, f"{what} must be detached")
    least, most = float(value.min()), float(value.max())
    inside = low <= least and most <= high and math.isfinite(least) and math.isfinite(most)
    need(inside, f"{what} must be finite and in [{low}, {high}]; got {least} to {most}")


def _weights(stolen: nn.Module | None) -> dict[str, Tensor]:
    return {} if stolen is None else dict(stolen.state_dict())


def _fits(run: Run) -> None:
    """The stolen layers take and give what the client's own do."""
    view, guess, probe = run.view, run.guess, run.session.data.test.inputs[:2]
    stolen: list[tuple[str, nn.Module | None, Tensor, tuple[int, ...]]] = [
        ("head", guess.head, probe, view.cut_shapes[0])
    ]
    if view.labels is Labels.CLIENT:
        stolen.append(("tail", guess.tail, torch.zeros(2, *view.cut_shapes[1]), (view.classes,)))
    for name, module, given, shape in stolen:
        if module is None:
            raise Broken(f"a stolen {name} was not handed over")
        with torch.no_grad():
            _checked(copy.deepcopy(module).eval()(given), f"what the stolen {name} makes of 2 rows", (2, *shape))


def repeats(trial: Trial) -> str:
    """A fresh instance with the same generator answers the same, to the bit, whatever the global ones hold."""
    first, second = trial.first.guess, trial.again().guess
    for part in ("images", "labels", "scores", "choices"):
        one, two = getattr(first, part), getattr(second, part)
        equal = one is two is None or (one is not None and two is not None and torch.equal(one, two))
        need(equal, f"{part} differ between two runs with the same generator")
    for part in ("head", "tail"):
        one, two = (_weights(getattr(guess, part)) for guess in (first, second))
        equal = one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        need(equal, f"the stolen {part} differs between two runs with the same generator")
    return "two runs"


def draws_alone(trial: Trial) -> str:
    """No global generator of torch, NumPy or Python ends in another state; what a fork hides, `repeats` finds."""
    touched = trial.first.touched
    need(not touched, f"it used the global generator of {', '.join(touched)}; randomness comes in as `generator`")
    return "torch, numpy, random"


def reads_only(trial: Trial) -> str:
    """Nothing that the view hands out is written to, nor the data of the task."""
    written = trial.first.written
    need(not written, f"it wrote to {', '.join(written)}; work on copies")
    return "view, network, snapshots, data"


def refuses(trial: Trial) -> str:
    """Each kind of knowledge that its threat needs is missed, by name, where a view does not grant it."""
    attack, view = trial.first.attack, trial.first.view
    kinds = list(attack.threat.needs)
    for kind in kinds:
        poorer = replace(view, granted=view.granted & ~kind)
        try:
            attack.run(poorer, generator(0, "contract"))
        except MissingKnowledge as error:
            told = str(error).partition("It sees")[0]  # a view's message ends with what is granted
            need(str(kind) in told, f"without {kind} it is refused, but the message does not say so: {error}")
        else:
            raise Broken(f"its threat needs {kind}, yet it runs without: declare less, or call view.need(...)")
    return str(attack.threat.needs)


def beats_blind(trial: Trial) -> str:
    """On the undefended toy it does better than who never saw the wire, by more than chance explains."""
    return better_than_blind(trial.first, trial.make().goal)

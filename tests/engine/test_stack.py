# SPDX-License-Identifier: Apache-2.0
"""Several defenses as one: nothing, one and many; order, sums and conflicts."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import DEFENSES
from splitguard.engine.bench import Bench
from splitguard.engine.defense import Alarm, Batch, Context, Defense
from splitguard.engine.stack import Stack
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadSetting, NotSupported, ReleaseRefused
from tests.engine.small_defenses import Apart, Detector, Labels, Learner, Mixer, Scale, Shift, gaussian

CTX = Context(torch.arange(3), 0, 0, 0, Phase.TRAINING)
SENT = Exchange(0, 0, Phase.TRAINING, 0, CTX.ids, smashed=torch.ones(3, 2))


def test_no_hook_is_forgotten() -> None:
    kinds = (types.FunctionType, property)
    hooks = {name for name, value in vars(Defense).items() if isinstance(value, kinds) and name[0] != "_"}
    assert hooks - set(vars(Stack)) == {"noise_information"}  # which follows from law and standard deviation


def calls(defense: Defense) -> dict[str, Any]:
    """Every hook on the same arguments, each with a generator of its own."""

    def gen() -> torch.Generator:
        return torch.Generator().manual_seed(7)

    x, labels = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 2])
    batch, net = Batch(x, CTX.ids, labels), nn.Linear(2, 2)
    optimizer = defense.optimizer(net, lambda ps: torch.optim.SGD(ps, lr=0.1))
    return {
        "place": defense.place(("a",), []),
        "wrap": defense.wrap("net", gen()),  # type: ignore[arg-type]  # handed on and back only
        "modules": list(map(repr, defense.modules().values())),
        "optimizer": optimizer and optimizer.defaults["lr"],
        "sampler": defense.sampler(3, 2, gen()),
        "penalty": defense.penalty(batch, x, gen()),
        "on_send": defense.on_send(x, CTX, gen()),
        "on_return": defense.on_return(x, labels, CTX, gen()),
        "on_labels": defense.on_labels(labels, CTX, gen()),
        "probe": defense.probe(labels, CTX, gen()),
        "alarm": defense.alarm(SENT),
        "mean_release": defense.mean_release(x),
        "noise_std": defense.noise_std(),
        "released_like": defense.released_like(x, gen()),
        "privacy": defense.privacy(),
        "overrides": {
            hook: defense.overrides(hook) for hook in vars(Defense) if inspect.isfunction(vars(Defense)[hook])
        },
    }


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


MAKERS: dict[str, Callable[[], Defense]] = {
    "nothing": Defense,
    "scale": Scale,
    "mixer": Mixer,
    "learner": Learner,
    "detector": Detector,
    "labels": Labels,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_stack_of_one_is_the_one(name: str) -> None:
    alone, stacked = calls(MAKERS[name]()), calls(Stack([MAKERS[name]()]))
    assert [hook for hook in alone if not same(alone[hook], stacked[hook])] == []


@pytest.mark.parametrize("name", list(DEFENSES))
def test_a_stack_of_one_registered_defense_is_that_one_when_bound(name: str) -> None:
    alone, stacked = Bench(DEFENSES.build(name)), Bench(Stack([DEFENSES.build(name)]))
    assert alone.deployment.cuts == stacked.deployment.cuts
    for one, two in zip(alone.hooks(alone.smashed), stacked.hooks(stacked.smashed), strict=True):
        assert torch.equal(one.got, two.got), one.hook
    assert alone.defense.privacy() == stacked.defense.privacy()
    assert alone.defense.noise_std() == stacked.defense.noise_std()


def test_an_empty_stack_is_the_baseline() -> None:
    plain, empty = calls(Defense()), calls(Stack())
    assert [hook for hook in plain if not same(plain[hook], empty[hook])] == []
    x = torch.ones(3, 2)
    assert Stack().on_send(x, CTX, torch.Generator()) is x


def test_hooks_go_in_list_order() -> None:
    one, two = calls(Stack([Scale(2), Shift()])), calls(Stack([Shift(), Scale(2)]))
    x = torch.arange(6.0).view(3, 2)
    for hook in ("on_send", "on_return", "mean_release", "released_like"):
        assert torch.equal(one[hook], 2 * x + 1), hook
        assert torch.equal(two[hook], 2 * (x + 1)), hook
    assert one["on_labels"].tolist() == [1, 3, 5]
    assert two["on_labels"].tolist() == [2, 4, 6]
    named = calls(Stack([Scale(2), Scale(3)]))
    assert (named["place"], named["wrap"]) == (("a*2*3",), "net*2*3")


def test_what_adds_up() -> None:
    got = Stack([Scale(2), Labels(), Scale(3)]).penalty(
        Batch(torch.ones(3, 2), CTX.ids, None), torch.ones(3, 2), torch.Generator()
    )
    assert got is not None
    assert float(got) == 6 * (2 + 3)  # each of the smashed data before any on_send
    alarms = Stack([Detector(0.2), Defense(), Detector(0.9), Detector(0.1, stop=True)])
    assert alarms.alarm(SENT) == Alarm(0.9, stop=True)
    seen = [Detector(), Detector()]
    Stack(seen).adversary_step(Batch(torch.ones(3, 2), CTX.ids, None), torch.ones(3, 2), torch.Generator())
    assert [d.seen for d in seen] == [1, 1]


@pytest.mark.parametrize("hook", ["optimizer", "sampler", "probe"])
def test_what_only_one_may_bring(hook: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "optimizer": (nn.Linear(2, 2), None),
        "sampler": (3, 2, torch.Generator()),
        "probe": (torch.arange(3), CTX, torch.Generator()),
    }
    assert getattr(Stack([Scale(), Detector()]), hook)(*arguments[hook]) is not None
    with pytest.raises(NotSupported, match=r"detector and detector each bring .* take one of them out"):
        getattr(Stack([Detector(), Scale(), Detector()]), hook)(*arguments[hook])


def test_a_later_part_is_bound_to_what_the_earlier_ones_leave() -> None:
    plain, later = gaussian(sigma=1.0), gaussian(sigma=1.0)
    Bench(plain)

    Bench(Stack([Apart(), Defense(), later]))
    [one], [two] = plain.privacy(), later.privacy()
    assert two.sensitivity == 2 * (one.sensitivity or math.nan)


def test_a_part_that_draws_nothing_changes_no_draw() -> None:
    alone, beside = Bench(gaussian(epsilon=8)), Bench(Stack([DEFENSES.build("nopeek"), gaussian(epsilon=8)]))
    assert torch.equal(alone.send(alone.smashed), beside.send(beside.smashed))


def test_nested_stacks_are_laid_out_flat() -> None:
    parts = [Scale(2), Scale(3), Scale(5)]
    flat = Stack([parts[0], Stack([Stack(), Stack(parts[1:])])])
    assert list(flat.defenses) == parts
    assert repr(flat).startswith("Stack(defenses=(Scale(by=2), Scale(by=3)")


def test_an_instance_serves_once_and_only_defenses_stack() -> None:
    one = Scale()
    with pytest.raises(BadSetting, match="same instance twice"):
        Stack([one, Stack([one])])
    with pytest.raises(BadSetting, match="made of defenses; got 'gaussian', a str"):
        Stack(["gaussian"])  # type: ignore[list-item]  # what is refused


def test_networks_and_state_of_equal_parts_are_kept_apart() -> None:
    stack = Stack([Learner(), Detector(), Learner()])
    assert list(stack.modules()) == ["0_net", "2_net"]
    nn.ModuleDict(dict(stack.modules()))  # names that torch takes
    first, twin = (Bench(Stack([gaussian(sigma=1.0), gaussian(sigma=2.0)]), releases=2) for _ in range(2))
    first.send(first.smashed, first.batch.ids)
    twin.defense.load_state_dict(first.defense.state_dict())
    wanted = first.send(first.smashed, first.batch.ids)
    assert torch.equal(twin.send(first.smashed, first.batch.ids), wanted)
    with pytest.raises(ReleaseRefused):
        twin.send(first.smashed, first.batch.ids)


def test_only_noise_that_crosses_as_added_is_named() -> None:
    def bound(*parts: Defense) -> float:
        stack = Stack(parts)
        Bench(stack)
        return stack.noise_std()

    assert bound(gaussian(sigma=3.0, clip=1.0), DEFENSES.build("nopeek")) == 3.0
    assert bound(Mixer(), gaussian(sigma=3.0, clip=1.0)) == 3.0
    assert bound(gaussian(sigma=3.0, clip=1.0), Mixer()) == 0.0
    assert bound(gaussian(sigma=3.0, clip=1.0), gaussian(sigma=4.0, clip=1.0)) == 4.0


def test_cuts_add_up() -> None:
    stack = Stack([DEFENSES.build("deeper-cut"), DEFENSES.build({"deeper-cut": {"layers": 2}})])
    assert Bench(stack).deployment.cuts == ("relu2",)

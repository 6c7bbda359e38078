# SPDX-License-Identifier: Apache-2.0
"""Several defenses as one: nothing, one and many; order, sums, conflicts, and what is left of guarantees."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from splitguard.api import DEFENSES
from splitguard.engine.bench import Bench
from splitguard.engine.defense import Alarm, Batch, Context, Defense
from splitguard.engine.stack import Stack
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadSetting, NotSupported, ReleaseRefused
from splitguard.privacy.guarantee import Guarantee

CTX = Context(torch.arange(3), 0, 0, 0, Phase.TRAINING)
SENT = Exchange(0, 0, Phase.TRAINING, 0, CTX.ids, smashed=torch.ones(3, 2))


def gaussian(**settings: Any) -> Defense:
    return DEFENSES.build({"gaussian": settings})


@dataclass
class Scale(Defense):
    """Every hook times ``by``."""

    by: float = 2.0
    name: ClassVar[str] = "scale"
    per_sample: ClassVar[bool] = True

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed * self.by

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return grad * self.by

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return labels * int(self.by)

    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed * self.by

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed * self.by

    def penalty(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> Tensor | None:
        return smashed.sum() * self.by

    def place(self, cuts: tuple[str, ...], legal: Sequence[Any]) -> tuple[str, ...]:
        return tuple(f"{c}*{self.by:g}" for c in cuts)

    def wrap(self, split: Any, generator: torch.Generator) -> Any:
        return f"{split}*{self.by:g}"


@dataclass
class Shift(Scale):
    """As `Scale`, plus 1."""

    name: ClassVar[str] = "shift"

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed + 1

    def on_return(self, grad: Tensor, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return grad + 1

    def on_labels(self, labels: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return labels + 1

    def mean_release(self, smashed: Tensor) -> Tensor:
        return smashed + 1

    def released_like(self, smashed: Tensor, generator: torch.Generator) -> Tensor:
        return smashed + 1


class Mixer(Defense):
    """Sends the batch mean."""

    name: ClassVar[str] = "mixer"

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed.mean(0, keepdim=True).expand_as(smashed)


class Wrapper(Defense):
    """Adds layers, and does not say that they keep rows apart."""

    name: ClassVar[str] = "wrapper"

    def wrap(self, split: Any, generator: torch.Generator) -> Any:
        return split


class Learner(Defense):
    """Sends through a network that it trains itself."""

    name: ClassVar[str] = "learner"
    per_sample: ClassVar[bool] = True

    def __init__(self) -> None:
        self.net = nn.Linear(2, 2)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net}

    def on_send(self, smashed: Tensor, ctx: Context, generator: torch.Generator) -> Tensor:
        return smashed


class Detector(Defense):
    """Raises one alarm, brings one of everything that only one may bring, and counts what it saw."""

    name: ClassVar[str] = "detector"

    def __init__(self, score: float = 0.5, *, stop: bool = False) -> None:
        self.told, self.seen = Alarm(score, stop), 0

    def alarm(self, exchange: Exchange) -> Alarm | None:
        return self.told

    def adversary_step(self, batch: Batch, smashed: Tensor, generator: torch.Generator) -> None:
        self.seen += 1

    def optimizer(self, head: nn.Module, make: Callable[..., Any]) -> torch.optim.Optimizer | None:
        return torch.optim.SGD(head.parameters(), lr=1.0)

    def sampler(self, rows: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor] | None:
        return [torch.arange(rows)]

    def probe(self, ctx: Context, generator: torch.Generator) -> Tensor | None:
        return ctx.ids * 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


class Labels(Defense):
    """Guarantees something about labels."""

    name: ClassVar[str] = "labels"

    def privacy(self) -> tuple[Guarantee, ...]:
        return (
            Guarantee(
                channel="labels",
                epsilon_rows=1.0,
                epsilon=1.0,
                epsilon_query=None,
                delta=0.0,
                adjacency="replace-one",
                sensitivity=None,
                T=1,
                adversary="the server",
                mechanism="randomised response",
                exclusions=("queries carry no labels",),
            ),
        )


def test_no_hook_is_forgotten() -> None:
    hooks = {name for name, value in vars(Defense).items() if inspect.isfunction(value) and name[0] != "_"}
    assert hooks - set(vars(Stack)) == set()


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
        "probe": defense.probe(CTX, gen()),
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
        "probe": (CTX, torch.Generator()),
    }
    assert getattr(Stack([Scale(), Detector()]), hook)(*arguments[hook]) is not None
    with pytest.raises(NotSupported, match=r"detector and detector each bring .* take one of them out"):
        getattr(Stack([Detector(), Scale(), Detector()]), hook)(*arguments[hook])


def test_a_later_part_is_bound_to_what_the_earlier_ones_leave() -> None:
    plain, later = gaussian(sigma=1.0), gaussian(sigma=1.0)
    Bench(plain)

    class Doubled(Scale):
        place, wrap = Defense.place, Defense.wrap

    Bench(Stack([Doubled(), Defense(), later]))
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


def stated(*parts: Defense, frozen: bool = True) -> tuple[Guarantee, ...]:
    stack = Stack(parts)
    Bench(stack, head_frozen=frozen)
    return stack.privacy()


def test_along_one_channel_the_smaller_epsilon_stands_and_channels_stand_side_by_side() -> None:
    alone = stated(gaussian(epsilon=4, clip=1.0))
    assert stated(gaussian(epsilon=8, clip=1.0), gaussian(epsilon=4, clip=1.0)) == alone
    assert stated(gaussian(epsilon=4, clip=1.0), gaussian(epsilon=8, clip=1.0)) == alone
    assert [g.channel for g in stated(gaussian(epsilon=4, clip=1.0), Labels())] == ["inputs", "labels"]


@pytest.mark.parametrize("other", [Mixer, Wrapper])
@pytest.mark.parametrize("first", [True, False])
def test_what_may_mix_rows_voids_by_name(other: type[Defense], first: bool) -> None:
    parts = [other(), gaussian(epsilon=4, clip=1.0), Labels()]
    inputs, labels = stated(*(parts if first else parts[1:] + parts[:1]))
    assert (inputs.epsilon, inputs.epsilon_rows, inputs.epsilon_query) == (None, None, None)
    assert inputs.exclusions[0] == f"{other.name} may mix the rows of a batch in what is sent"
    assert labels == Labels().privacy()[0]


def test_several_that_void_are_all_named() -> None:
    [told] = stated(Mixer(), gaussian(epsilon=4, clip=1.0), Wrapper())
    assert told.exclusions[0].startswith("mixer and wrapper may mix")


def test_what_keeps_rows_apart_voids_nothing() -> None:
    @dataclass
    class Apart(Scale):
        place, wrap = Defense.place, Defense.wrap

    alone = stated(gaussian(epsilon=4, clip=1.0))
    assert alone[0].epsilon is not None
    assert stated(Apart(), gaussian(epsilon=4, clip=1.0), Detector()) == alone


def test_networks_that_learn_from_raw_rows_cost_the_whole_view() -> None:
    [alone], [told] = stated(gaussian(epsilon=4, clip=1.0)), stated(Learner(), gaussian(epsilon=4, clip=1.0))
    why = "learner sends through networks that learn from raw rows"
    assert told == dataclasses.replace(alone, epsilon=None, exclusions=(why, *alone.exclusions))


def test_cuts_add_up() -> None:
    stack = Stack([DEFENSES.build("deeper-cut"), DEFENSES.build({"deeper-cut": {"layers": 2}})])
    assert Bench(stack).deployment.cuts == ("relu2",)

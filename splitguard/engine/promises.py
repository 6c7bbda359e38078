# SPDX-License-Identifier: Apache-2.0
"""What the hooks of every defense promise to the engine and to attackers, each promise tried on a bench."""

from __future__ import annotations

import contextlib
import io
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from splitguard.engine.bench import Bench
from splitguard.engine.defense import Batch, Defense
from splitguard.engine.wire import Exchange, Phase
from splitguard.errors import BadCut, BadSetting, Diverged, NotSupported, ReleaseRefused

__all__ = ["PROMISES", "Broken", "Check", "need", "nothing_changes"]

#: Makes a fresh defense, the same one each time.
Make = Callable[[], Defense]


@dataclass(frozen=True)
class Check:
    """One promise of the contract: what it is called, whether it is kept, and what was found."""

    name: str
    passed: bool
    detail: str


class Broken(Exception):
    """A promise is not kept; the message is for the author of the defense."""


def need(kept: bool, otherwise: str) -> None:
    """Raises `Broken` with what is wrong, unless the promise is kept."""
    if not kept:
        raise Broken(otherwise)


def nothing_changes(make: Make) -> None:
    """Every hook hands back what it was given, to the bit; no penalty, no guarantee, the cut as it was."""
    bench = Bench(make())
    for hook, given, got in bench.hooks(bench.smashed):
        need(torch.equal(given, got), f"{hook} changes what it is given")
    need(bench.defense.penalty(bench.batch, bench.smashed, bench.gen()) is None, "there is a penalty")
    need(not bench.defense.privacy(), "a guarantee is stated")
    need(bench.deployment.cuts == ("conv1",), "the cut is moved")


def keeps_shapes(make: Make) -> str:
    """For a batch, a single row and double precision: same shape and dtype, finite, and the input is not written to."""
    bench = Bench(make())
    for smashed in (bench.smashed, bench.smashed[:1], bench.smashed.double()):
        before = smashed.clone()
        for hook, given, got in bench.hooks(smashed):
            same = (given.shape, given.dtype) == (got.shape, got.dtype)
            need(same, f"{hook} makes {got.dtype} {tuple(got.shape)} of {given.dtype} {tuple(given.shape)}")
            need(bool(torch.isfinite(got).all()), f"{hook} hands back numbers that are not finite")
        need(torch.equal(smashed, before), "a hook writes into what it is given; it must work on a copy")
    return f"(N, {', '.join(map(str, bench.smashed.shape[1:]))})"


def draws_from_generator(make: Make) -> str:
    """The same generator gives the same bits, and no global generator is drawn from or seeded."""
    before = _global_states()
    first, second = ([t.got for t in b.hooks(b.smashed)] for b in (Bench(make()) for _ in range(2)))
    need(before == _global_states(), "a global generator was used; draw from the one that is handed in")
    need(all(map(torch.equal, first, second)), "the same generator gave two results")
    return "same generator, same bits"


def differentiable(make: Make) -> str:
    """The client trains, and adaptive attacks optimise, through what is sent: the gradients exist and are finite."""
    bench = Bench(make())
    leaf = bench.smashed.clone().requires_grad_()
    for hook, _, got in bench.hooks(leaf)[:3]:
        need(got.requires_grad, f"{hook} cuts the graph; where it has no gradient, let it pass straight through")
        (grad,) = torch.autograd.grad(got.square().sum(), leaf)
        need(bool(torch.isfinite(grad).all()), f"the gradient through {hook} is not finite")
    return "on_send, mean_release, released_like"


def as_told(make: Make) -> str:
    """What attackers are told describes what is sent, over 4,096 draws: to 6 standard errors; spreads also to 5 %."""
    if not make().per_sample:
        return "not tried: the rows of a batch are no independent draws"
    bench = Bench(make())
    many = 2 * bench.smashed[:1].expand(4096, *bench.smashed.shape[1:])
    mean, sigma = bench.defense.mean_release(many[:1]), bench.defense.noise_std()
    spread, doubt = {}, 0.0
    draws = {"on_send": bench.send(many).detach(), "released_like": bench.defense.released_like(many, bench.gen(2))}
    for hook, out in draws.items():
        variance, apart = out.var(0), (out - out.mean(0)).square().flatten(1).mean(1)
        rare = float(many.abs().max()) / len(many) if bool(variance.any()) else 0.0  # what is too rare to be drawn
        # Squared, in standard errors, averaged over d coordinates: 1, give or take sqrt(2 / d), if the mean is right.
        error = variance / len(many) + rare**2 + (1e-5 * mean.abs().max()) ** 2 + 1e-24
        off = float(((out.mean(0) - mean).square() / error).mean())
        need(off <= 1 + 6 * math.sqrt(2 / mean.numel()), f"the mean of {hook} is off mean_release: {off:.3g}, not 1")
        spread[hook], doubt = float(variance.mean().sqrt()), math.hypot(doubt, float(apart.std()) / 64)
    sent, told = spread.values()
    close = math.isclose(sent, told, rel_tol=0.05, abs_tol=1e-5) or abs(sent**2 - told**2) <= 6 * doubt
    need(close, f"standard deviations differ: {spread}")
    need(sigma in {0, sent} or abs(sigma / sent - 1) < 0.05, f"noise_std {sigma}; {spread}")
    return f"noise_std {sigma:.4g}, measured {sent:.4g}"


def rows_apart(make: Make) -> str:
    """What is sent for a row does not change with the others of its batch, or is refused where they are not finite."""
    if not make().per_sample:
        return "it does not say so: guarantees beside it are void"
    for by in (1e3, math.nan, math.inf):
        one, two = (Bench(make()) for _ in range(2))
        others = torch.cat([two.smashed[:1], by * two.smashed[1:].flip(0)])
        with contextlib.suppress(*[] if math.isfinite(by) else [Diverged]):
            for (hook, _, alone), (_, _, beside) in zip(one.hooks(one.smashed)[:3], two.hooks(others), strict=False):
                need(torch.equal(alone[0], beside[0]), f"{hook} changes with other rows, times {by}: not per_sample")
    return "same bits among other rows"


def resumes(make: Make) -> str:
    """Read back without unpickling code, its state goes on to the same bits; attackers can use it without `bind`."""
    bench = Bench(make())
    bench.send(bench.smashed, bench.batch.ids)
    file = io.BytesIO()
    networks = {name: net.state_dict() for name, net in bench.defense.modules().items()}
    torch.save((bench.defense.state_dict(), networks), file)
    wanted = bench.send(bench.smashed, bench.batch.ids, stream=2)
    told = bench.defense.released_like(bench.smashed, bench.gen())
    for bound in (True, False):
        twin = Bench(make(), bind=bound)
        state, networks = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        twin.defense.load_state_dict(state)
        for name, net in twin.defense.modules().items():
            net.load_state_dict(networks[name])
        again = twin.defense.released_like(bench.smashed, bench.gen())
        how = "bind and load_state_dict" if bound else "load_state_dict without bind"
        need(torch.equal(again, told), f"released_like differs after {how}")
        if bound:
            again = twin.send(bench.smashed, bench.batch.ids, stream=2)
            need(torch.equal(again, wanted), f"on_send differs after {how}")
    return f"{len(bench.defense.state_dict())} entries, {len(networks)} networks"


def private_outside(make: Make) -> str:
    """To attackers without the client's layers it answers alike whatever training rows it has met."""
    told = []
    for factor in (1.0, -2.0):
        bench = Bench(make())
        _meet(bench, factor)
        known = bench.defense.outside()
        need(not known.modules(), f"outside() still has {', '.join(known.modules())}; attackers would read them")
        penalty = known.penalty(bench.batch, bench.smashed, bench.gen())
        told.append(
            {
                "mean_release": known.mean_release(bench.smashed),
                "released_like": known.released_like(bench.smashed, bench.gen()),
                "residual": known.residual(bench.smashed, 2 * bench.smashed),
                "penalty": torch.zeros(()) if penalty is None else penalty,
            }
        )
    for hook, one in told[0].items():
        need(torch.equal(one, told[1][hook]), f"{hook} tells what training rows taught it; see Defense.outside")
    return ", ".join(told[0])


def _meet(bench: Bench, factor: float) -> None:
    """Three rounds of training: smashed data times ``factor``; for a negative one other images and classes too."""
    batch, classes = bench.batch, bench.deployment.classes
    labels = None if batch.labels is None else (batch.labels + (factor < 0)) % classes
    rows = Batch(batch.inputs.flip(0) if factor < 0 else batch.inputs, batch.ids, labels)
    for epoch in range(3):
        smashed = (factor * bench.smashed).requires_grad_()
        bench.defense.adversary_step(rows, smashed.detach(), bench.gen())
        ctx = replace(bench.context(batch.ids), epoch=epoch, step=epoch)
        bench.defense.on_send(smashed, ctx, bench.gen(epoch)).square().sum().backward()


def adds_up(make: Make) -> str:
    """Penalty and alarm: scalars that are finite, for equal rows, single rows and unknown labels too; or None."""
    bench = Bench(make())
    inputs, ids = bench.batch.inputs, bench.batch.ids
    found: list[float] = []
    for rows in (ids, ids[:1], ids * 0):
        leaf = bench.smashed[rows].requires_grad_()
        value = bench.defense.penalty(Batch(inputs[rows], rows, None), 1 * leaf, bench.gen())
        if value is not None:
            need(value.shape == () and value.requires_grad, "a penalty is a differentiable scalar")
            (grad,) = torch.autograd.grad(value, leaf)
            need(bool(torch.isfinite(value) & torch.isfinite(grad).all()), "penalty or its gradient is not finite")
            found.append(float(value.detach()))
    exchange = Exchange(0, 0, Phase.TRAINING, 0, ids, smashed=bench.smashed, cut_grad=bench.smashed)
    alarm = bench.defense.alarm(exchange)
    need(alarm is None or 0 <= alarm.score <= 1, f"an alarm's score lies in 0..1; got {alarm}")
    return f"penalty {max(found):.3g}" if found else "none"


def places(make: Make) -> str:
    """From every legal cut it goes to a legal one, or refuses in words."""
    legal = Bench(make()).legal
    names = [cut.name for cut in legal]
    moved = {}
    for name in names:
        try:
            moved[name] = make().place((name,), legal)
        except (NotSupported, BadCut, BadSetting):
            continue
        need(len(moved[name]) == 1 and moved[name][0] in names, f"{name} goes to {moved[name]}, no legal cut")
    return ", ".join(f"{a}: {b}" for a, (b,) in moved.items())


def guarantees(make: Make) -> str:
    """Per channel ``inputs``: rows kept apart, a sensitivity that holds, every release counted, and no more claimed."""
    bench = Bench(make())
    stated = [g for g in bench.defense.privacy() if g.channel == "inputs"]
    need(not stated or make().per_sample, "a guarantee for a row needs per_sample")
    far = 1e6 * torch.cat([bench.smashed, torch.eye(8, bench.smashed[0].numel()).view_as(bench.smashed)])
    mean = bench.defense.mean_release
    with contextlib.suppress(NotSupported):
        mixed = Bench(make(), head_frozen=True, mixing=("norm",)).defense.privacy()
        claimed = [g for g in mixed if g.channel == "inputs" and g.epsilon is not None]
        need(not claimed, "a layer mixes rows before the cut here: no epsilon covers the whole view")
    for one in stated:
        trained = not bench.deployment.head_frozen
        need(not (trained and one.epsilon), "the head is trained on raw inputs here: no epsilon covers the whole view")
        if one.sensitivity is not None:
            moved = mean(far) - (mean(-far) if one.adjacency == "replace-one" else 0)
            most = float(moved.flatten(1).norm(dim=1).max())
            need(most <= 1.00001 * one.sensitivity, f"sensitivity is {one.sensitivity:.4g}; a row moved by {most:.4g}")
    sent: set[bytes] = set()
    with contextlib.suppress(ReleaseRefused):
        for stream in range(2 * bench.deployment.releases[Phase.TRAINING]):
            sent.add(bench.send(bench.smashed, bench.batch.ids, stream=stream).detach().numpy().tobytes())
    counted = max((one.T for one in stated if one.epsilon_rows is not None), default=len(sent))
    need(len(sent) <= counted, f"a row got {len(sent)} releases and T={counted} are counted; a Ledger refuses more")
    return " ".join(map(str, bench.defense.privacy())) or "states none"


PROMISES: dict[str, Callable[[Make], str]] = {
    "keeps shapes and leaves its input alone": keeps_shapes,
    "draws from the generator alone": draws_from_generator,
    "can be differentiated": differentiable,
    "is what attackers are told": as_told,
    "keeps rows apart if it says so": rows_apart,
    "resumes to the same bits": resumes,
    "keeps what it learnt from attackers outside": private_outside,
    "adds finite numbers": adds_up,
    "goes from legal cut to legal cut": places,
    "proves what it guarantees": guarantees,
}


def _global_states() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # the global state is what is guarded
    return torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest, random.getstate()

# SPDX-License-Identifier: Apache-2.0
"""Cuts any network that torch.fx can follow into head, body and tail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from splitguard.engine._network import LOGITS, Network
from splitguard.engine._nodes import take
from splitguard.engine._stage import Stage, build, parts
from splitguard.engine.cost import FLOAT32, counting, example
from splitguard.engine.mixing import mixes_rows
from splitguard.errors import BadCut, NotSupported

__all__ = ["LOGITS", "Cut", "SplitModel", "Stage", "cut_shapes", "legal_cuts", "mixes_rows", "next_cuts", "split"]


class SplitModel(nn.Module):
    """A split network: ``tail(body(head(x)))``.

    Args:
        head: the client's first layers.
        body: the server's layers.
        tail: the client's last layers, or None.
        cuts: canonical names of the layers after which it is cut, one or two.
    """

    def __init__(self, head: nn.Module, body: nn.Module, tail: nn.Module | None, cuts: tuple[str, ...]) -> None:
        super().__init__()
        self.head = head
        self.body = body
        self.tail = tail
        self.cuts = cuts

    @property
    def stages(self) -> tuple[tuple[str, nn.Module], ...]:
        """The stages with their names, first to last."""
        named = (("head", self.head), ("body", self.body), ("tail", self.tail))
        return tuple((name, stage) for name, stage in named if stage is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Of (N, *in)."""
        for _, stage in self.stages:
            x = stage(x)
        return x


@dataclass(frozen=True)
class Cut:
    """A place where a network can be cut.

    Attributes:
        name: the outermost layer that ends there, else the function within a layer.
        aliases: other names that `split` understands for the same place.
        shape: of what crosses, without the batch.
        client_params: number of parameters up to there.
        client_flops: FLOPs of one sample's forward pass up to there; see `measure`.
        bytes: what crosses in one direction, per sample, in float32.
    """

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    client_params: int
    client_flops: int
    bytes: int


def split(module: nn.Module, at: str | Sequence[str]) -> SplitModel:
    """Cuts ``module`` after one named layer, or after two.

    Nothing is copied: the stages hold the layers and parameters of ``module`` itself, under their names there, so that
    training the stages trains ``module``, and the state dicts of the stages together are its own. Layers without
    parameters, like one ReLU used in many places, may be in several stages. The network is followed by torch.fx in
    train and in eval mode, and the stages take in each mode the steps of that mode. Before every layer that may
    draw random numbers they call `splitguard.seeding.reseed` with its name, so that within `seeding.drawing` a layer
    draws the same wherever the network is cut; a dropout rate that is 0 now counts as drawing nothing. Layers that
    torch.fx cannot follow are kept whole. A layer's own hooks run only if it is kept whole, as torch's layers are.

    Args:
        module: any network from one tensor to one tensor, first dimension the batch.
        at: a layer by its path, as ``"layer1.0.relu"``; ``"layer1.0.relu_1"`` is after it is called a second time; or a
            function by its name within a layer, as ``"layer1.0.add"`` or ``"flatten"``. Two names, or
            ``"conv2..fc1"``, give head, body and tail. ``"logits"`` is after the last layer: the stage behind it is
            empty, and only the loss is computed there.

    Raises:
        UnknownName: for a name that is none, with near misses.
        BadCut: where a value besides the smashed data and the batch size would have to cross, or a parameter would
            belong to two stages; with the nearest legal cuts.
    """
    names = tuple(at.split("..")) if isinstance(at, str) else tuple(at)
    if not 1 <= len(names) <= 2:
        raise BadCut(f"a network is cut after one layer or after two; got {len(names)}: {names}")
    network = Network(module)
    points = [network.find(name) for name in names]
    places = [network.place(p) for p in points]
    if len(places) == 2 and places[0] >= places[1]:
        raise BadCut(
            f"the second cut must come after the first; got {'..'.join(names)}. In network order: "
            f"{', '.join(p.name for p in network.points)}."
        )
    stages = build(module, network.traces, [p.at for p in points])
    return SplitModel(stages[0], stages[1], stages[2] if len(stages) > 2 else None, tuple(p.name for p in points))


def legal_cuts(module: nn.Module, example_input_shape: Sequence[int]) -> list[Cut]:
    """Every place where ``module`` can be cut, in network order; the raw input and the output are none.

    Two and three uniform inputs are sent through it in eval mode, and what is no floating-point tensor with one row a
    sample is left out. The global generators and the module are as before.

    Args:
        module: the network.
        example_input_shape: of one input, without the batch.

    Raises:
        BadCut: if torch.fx cannot follow the network's own forward.
        NotSupported: if the network does not take such inputs.
    """
    network = Network(module)
    traced = network.traces[False]
    stage = build(module, network.traces, [])[0]
    try:
        shapes, flops = _observed(stage, example_input_shape, rows=2)
        more, _ = _observed(stage, example_input_shape, rows=3)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise NotSupported(
            f"the network does not take inputs of shape {tuple(example_input_shape)}: {error}"
        ) from error
    owned: dict[Tensor, int] = {}
    spent = 0
    cuts = []
    divided = {mode: parts(t, [p.at[mode] for p in network.points]) for mode, t in network.traces.items()}
    for number, point in enumerate(network.points):
        for mode, trace in network.traces.items():
            for step in divided[mode][number].steps:
                owned |= {p: p.numel() for p in trace.state[step] if isinstance(p, nn.Parameter)}
        spent += sum(flops[traced.order[step]] for step in divided[False][number].steps)
        place = traced.order[point.at[False]]
        shape = shapes[place]
        if shape and shape[0] == 2 and more[place] == (3, *shape[1:]):
            params, size = sum(owned.values()), math.prod(shape[1:]) * FLOAT32
            cuts.append(Cut(point.name, point.aliases, shape[1:], params, spent // 2, size))
    return cuts


def _observed(
    stage: Stage, input_shape: Sequence[int], *, rows: int
) -> tuple[dict[int, tuple[int, ...]], dict[int, int]]:
    """By the place of a step: the shape of its result, () if that is no floating-point tensor; and its FLOPs."""
    shapes: dict[int, tuple[int, ...]] = {}
    flops: dict[int, int] = {}
    known: dict[fx.Node, Any] = {}
    with counting(stage) as counter:
        for node in stage.graph.nodes:
            if node.op == "placeholder":
                known[node] = example(stage, input_shape, rows=rows)
            elif node.op != "output":
                before = counter.get_total_flops()
                args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = value = take(node, stage, args, kwargs)
                if "place" in node.meta:
                    real = isinstance(value, Tensor) and value.is_floating_point()
                    shapes[node.meta["place"]] = tuple(value.shape) if real else ()
                    flops[node.meta["place"]] = counter.get_total_flops() - before
    return shapes, flops


def next_cuts(cuts: Sequence[Cut], name: str) -> list[Cut]:
    """The legal cuts after the one called ``name``, nearest first: what "k layers deeper" counts.

    Args:
        cuts: from `legal_cuts`.
        name: its name or an alias.

    Raises:
        BadCut: if no legal cut has that name.
    """
    for place, cut in enumerate(cuts):
        if name == cut.name or name in cut.aliases:
            return list(cuts[place + 1 :])
    raise BadCut(f"no legal cut is called {name!r}; in network order: {', '.join(c.name for c in cuts)}")


def cut_shapes(network: SplitModel, input_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shape of what crosses at each cut, without the batch.

    Args:
        network: the split network.
        input_shape: of one input, without the batch.

    Raises:
        BadCut: if what crosses has not one row a sample.
    """
    seen: list[list[tuple[int, ...]]] = []
    for rows in (2, 3):
        with counting(network):
            value = example(network, input_shape, rows=rows)
            shapes = []
            for _, stage in network.stages[:-1]:
                value = stage(value)
                shapes.append(tuple(value.shape))
        seen.append(shapes)
    for name, two, three in zip(network.cuts, *seen, strict=True):
        if (2, *two[1:]) != two or (3, *two[1:]) != three:
            raise BadCut(
                f"what crosses at {name!r} must have one row a sample; it is {two} for 2 inputs and {three} for 3"
            )
    return [shape[1:] for shape in seen[0]]

# SPDX-License-Identifier: Apache-2.0
"""Where a network can be cut, and why it cannot be cut elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from splitguard.engine._stage import parts
from splitguard.engine._trace import trace
from splitguard.errors import BadCut, UnknownName, near_miss

__all__ = ["LOGITS", "Network", "Point"]

#: The cut after the last layer, which leaves the other side nothing but the loss; no list of legal cuts has it.
LOGITS = "logits"


@dataclass(frozen=True)
class Point:
    """A place to cut.

    Attributes:
        name: the outermost layer that ends there, else the function.
        aliases: the other names of the same place.
        at: the step after which the cut lies, in train mode (True) and in eval mode (False).
    """

    name: str
    aliases: tuple[str, ...]
    at: dict[bool, fx.Node]


class Network:
    """A traced network and the places where it can be cut.

    A cut is legal where one value carries all that the rest needs, apart from the batch size, in train and in eval
    mode, and where no parameter or buffer is used on both sides.

    Attributes:
        root: the network.
        traces: its steps by mode.
        points: the legal cuts in network order.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.traces = trace(root)
        self._shared: list[tuple[int, int, str]] = []
        self._gates = self._in_both_modes()
        self._find_shared()
        self.points = [p for i, p in enumerate(self._gates) if self._shared_across(i) is None]

    def find(self, name: str) -> Point:
        """The legal cut of that name.

        Raises:
            UnknownName: if there is no such layer; with near misses.
            BadCut: if it cannot be cut there; says why, and names the nearest legal cuts.
        """
        for point in self.points:
            if name == point.name or name in point.aliases:
                return point
        if name == LOGITS:
            return Point(LOGITS, (), {mode: t.result for mode, t in self.traces.items()})
        raise self._refusal(name)

    def place(self, point: Point) -> int:
        """Where a point that `find` found stands among all in network order, the logits last."""
        return self.points.index(point) if point in self.points else len(self.points)

    def _in_both_modes(self) -> list[Point]:
        """The places through which everything goes in both modes, each under all its names."""
        train, evaluate = self.traces[True], self.traces[False]
        groups: dict[tuple[fx.Node, fx.Node], list[str]] = {}
        for name, node in train.names.items():
            twin = evaluate.names.get(name)
            if twin is not None and node in train.gate_set and twin in evaluate.gate_set:
                groups.setdefault((node, twin), []).append(name)
        points: list[Point] = []
        for (node, twin), names in sorted(
            groups.items(), key=lambda g: (train.order[g[0][0]], evaluate.order[g[0][1]])
        ):
            if points and evaluate.order[points[-1].at[False]] > evaluate.order[twin]:
                continue  # the modes take these layers in another order
            names.sort(key=lambda n: (n not in train.layers, n.count(".")))
            points.append(Point(names[0], tuple(names[1:]), {True: node, False: twin}))
        return points

    def _find_shared(self) -> None:
        """Which parameters, buffers and draws are used between which gates, first and last."""
        first: dict[Tensor | fx.Node, tuple[int, int, str]] = {}
        for mode, trace_ in self.traces.items():
            for number, part in enumerate(parts(trace_, [p.at[mode] for p in self._gates])):
                used: list[tuple[Tensor | fx.Node, str]] = []
                for step in part.steps:
                    used += trace_.state[step].items()
                    used += [(step, trace_.drawing[step])] if step in trace_.drawing else []
                for thing, name in used:
                    low, high, _ = first.get(thing, (number, number, name))
                    first[thing] = min(low, number), max(high, number), name
        self._shared = sorted({s for s in first.values() if s[0] < s[1]})

    def _shared_across(self, gate: int) -> str | None:
        return next((name for low, high, name in self._shared if low <= gate < high), None)

    def _refusal(self, name: str) -> BadCut | UnknownName:
        train, evaluate = self.traces[True], self.traces[False]
        legal = [p.name for p in self.points]
        for opaque, why in {**evaluate.opaque, **train.opaque}.items():
            if name.startswith(f"{opaque}."):
                return BadCut(
                    f"cannot cut at {name!r}: it lies within {opaque}, which torch.fx cannot follow ({why}). "
                    f"Legal cuts: {', '.join(legal)}."
                )
        if name not in train.names and name not in evaluate.names:
            if name and any(name == path for path, _ in self.root.named_modules()):
                return BadCut(f"cannot cut at {name!r}: the network never calls it. Legal cuts: {', '.join(legal)}.")
            return UnknownName(near_miss(name, legal, what="layer"))
        return BadCut(f"cannot cut at {name!r}: {self._why(name)}. {self._near(name)}")

    def _why(self, name: str) -> str:
        for mode, trace_ in self.traces.items():
            node = trace_.names.get(name)
            if node is None:
                return f"it is taken in {'eval' if mode else 'train'} mode only"
            if node not in trace_.gate_set:
                return self._why_no_gate(node, mode)
        gate = next((i for i, p in enumerate(self._gates) if name in (p.name, *p.aliases)), None)
        shared = None if gate is None else self._shared_across(gate)
        if shared is None:
            return "train and eval mode take these layers in another order"
        return f"{shared} is used on both sides, and can belong to one party only"

    def _why_no_gate(self, node: fx.Node, mode: bool) -> str:
        trace_ = self.traces[mode]
        if node is trace_.result:
            return f"it is the output, so that nothing but the loss would be left to compute; {LOGITS!r} asks for that"
        if node not in trace_.live:
            return "it does not depend on the network's input"
        beside = sorted(trace_.between(node, trace_.result).values, key=trace_.order.__getitem__)
        if beside:
            listed = " and ".join(dict.fromkeys(self._called(n, mode) for n in beside))
            return f"beside it, {listed} would have to cross, to be used later on"
        late = trace_.reaching_behind(node)
        if late:
            return f"{self._called(late[0], mode)}, a later step, changes what lies before it"
        return "what it hands over is not one tensor"

    def _called(self, node: fx.Node, mode: bool) -> str:
        trace_ = self.traces[mode]
        if node in trace_.numbers:
            while node in trace_.numbers:
                node = node.all_input_nodes[0]
            return f"a size of {self._called(node, mode)}"
        if node is trace_.source:
            return "the input"
        names = [n for n, known in trace_.names.items() if known is node]
        return min(names, key=lambda n: (n not in trace_.layers, n.count(".")), default=str(node))

    def _near(self, name: str) -> str:
        mode = name in self.traces[True].names
        order = self.traces[mode].order
        place = order[self.traces[mode].names[name]]
        before = [p.name for p in self.points if order[p.at[mode]] < place]
        after = [p.name for p in self.points if order[p.at[mode]] > place]
        near = [f"{before[-1]} before it"] if before else []
        near += [f"{after[0]} after it"] if after else []
        return f"The nearest legal cuts: {', '.join(near)}." if near else "This network has no legal cut."

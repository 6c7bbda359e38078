# SPDX-License-Identifier: Apache-2.0
"""A network as a graph of steps, in train and in eval mode, every step under the name of the layer that takes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from splitguard.engine._nodes import asks_shape, count_source, draws, has_effect, overwrites, state, unpacked
from splitguard.engine._tracer import Event, Tracer, as_it_was, random_state
from splitguard.errors import BadCut, SplitguardError

__all__ = ["Span", "Trace", "trace"]


class Trace:
    """One network in one mode.

    Attributes:
        graph: its steps; a step that works in place stands for its input from there on.
        names: every name of a step: the path of the layer whose result it is, or of a function within a layer. The
            second time a layer is called it is ``name_1``.
        layers: those of the names that are paths of layers.
        first: the innermost name of a step.
        drawing: steps that may draw random numbers, with the name under which they do.
        constants: tensors that the network's code made while it was traced.
        opaque: layers that cannot be traced through, and why; they are one step each.
        order: the place of every step in the program.
        source, result: the first and the last step.
        numbers: steps whose result is a number, or several.
        counts: steps whose result depends on the input's batch size alone.
        state: the parameters and buffers that each step uses, with their names.
        effects: steps that the result does not need, taken for what they do beside it.
        lasting: those of the effects that change a tensor: they work in place, or keep statistics.
        gates, gate_set: steps through which everything goes that the result needs, in order; none that a lasting effect
            reaches behind.
    """

    def __init__(self, root: nn.Module) -> None:
        tracer = Tracer()
        before = set(vars(root))
        self.graph = tracer.trace(root)
        self.constants = {k: v for k, v in vars(root).items() if k not in before and isinstance(v, Tensor)}
        self.opaque = tracer.opaque
        self.order = {node: place for place, node in enumerate(self.graph.nodes)}
        self.numbers = tracer.numbers
        self._see_through_overwriting(root)
        self.source, *_, last = self.graph.nodes
        returned = last.args[0]
        if not isinstance(returned, fx.Node):
            raise BadCut(
                f"{type(root).__name__} must return one tensor to be cut; in {'train' if root.training else 'eval'} "
                f"mode it returns a {type(returned).__name__}. Switch auxiliary outputs off (as by aux_logits=False)."
            )
        self.result = returned
        self.names, self.layers, self.first = _numbered(tracer.events, {path for path, _ in root.named_modules()})
        self.drawing = {node: name for node, name in self.first.items() if draws(node, root)}
        self.state = {node: dict(state(node, root)) for node in self.order}
        self.counts = self._find_counts()
        needed = self._needed()
        self.effects = [n for n in self.order if n not in needed and has_effect(n, root)]
        self.lasting = [n for n in self.effects if overwrites(n, root) or self._keeps_statistics(n)]
        self.gates = self._find_gates()
        self.gate_set = set(self.gates)

    def _see_through_overwriting(self, root: nn.Module) -> None:
        """Makes later uses of what a step overwrites uses of that step, so that the graph tells all there is."""
        for node in list(self.graph.nodes):
            inputs = node.all_input_nodes
            if inputs and node not in self.numbers and overwrites(node, root):
                place = self.order[node]
                inputs[0].replace_all_uses_with(node, delete_user_cb=lambda user, at=place: self.order[user] > at)

    def _needed(self) -> set[fx.Node]:
        """The steps that the result is made of; one that is only asked for its size is none of them."""
        needed: set[fx.Node] = set()
        todo = [self.result]
        while todo:
            node = todo.pop()
            if node not in needed and node not in self.counts:
                needed.add(node)
                todo += node.all_input_nodes
        return needed

    def _keeps_statistics(self, node: fx.Node) -> bool:
        return node.op == "call_module" and any(not isinstance(held, nn.Parameter) for held in self.state[node])

    def _find_counts(self) -> set[fx.Node]:
        counts: set[fx.Node] = set()
        for node in self.graph.nodes:
            arithmetic = node.op == "call_function" and node.all_input_nodes and counts.issuperset(node.all_input_nodes)
            plain = getattr(node.target, "__module__", None) in ("_operator", "math")
            if count_source(node) is not None or (arithmetic and plain):
                counts.add(node)
        return counts

    def _find_gates(self) -> list[fx.Node]:
        """The dominators of the result among the steps that depend on the input, by nearest common dominators."""
        above: dict[fx.Node, fx.Node] = {self.source: self.source}
        for node in self.graph.nodes:
            inputs = [n for n in node.all_input_nodes if n in above]
            if node in self.counts or not inputs:
                continue
            gate = inputs[0]
            for other in inputs[1:]:
                while gate is not other:
                    if self.order[gate] > self.order[other]:
                        gate = above[gate]
                    else:
                        other = above[other]  # noqa: PLW2901  # both climb until they meet
            above[node] = gate
        self.live = set(above)
        if self.result not in above:
            raise BadCut("the network's output does not depend on its input")
        gates = []
        node = above[self.result]
        while node is not self.source:
            # A later step may still ask a step before this one for its size, which would have to cross too.
            alone = not self.between(node, self.result).values
            if alone and not unpacked(node) and not asks_shape(node) and not self.reaching_behind(node):
                gates.append(node)
            node = above[node]
        return gates[::-1]

    def reaching_behind(self, gate: fx.Node) -> list[fx.Node]:
        """The later steps that change what was made before ``gate``: nobody could take them if it were cut there."""
        return [n for n in self.lasting if self.order[n] > self.order[gate] and self.between(gate, n).values]

    def between(self, start: fx.Node, end: fx.Node) -> Span:
        """What computes ``end`` from ``start``."""
        span = Span()
        todo = [end]
        while todo:
            node = todo.pop()
            if node is start or node in span.steps or node in span.values or node in span.sizes:
                continue
            asked = count_source(node)
            if asked is not None and self._before(asked, start):
                span.sizes.add(node)
            elif self._before(node, start) or (asks_shape(node) and self._before(node.all_input_nodes[0], start)):
                span.values.add(node)
            else:
                span.steps.add(node)
                todo += node.all_input_nodes
        return span

    def _before(self, node: fx.Node, start: fx.Node) -> bool:
        """Whether a value that depends on the input is made before ``start``."""
        return node in self.live and self.order[node] < self.order[start]


@dataclass
class Span:
    """What lies between two steps.

    Attributes:
        steps: to take, in no order.
        sizes: batch sizes asked of values made before the start, which the start's own value knows too.
        values: made before the start and needed beside it; where there are any, the start is no place to cut.
    """

    steps: set[fx.Node] = field(default_factory=set)
    sizes: set[fx.Node] = field(default_factory=set)
    values: set[fx.Node] = field(default_factory=set)


def _numbered(events: list[Event], paths: set[str]) -> tuple[dict[str, fx.Node], set[str], dict[fx.Node, str]]:
    """Names for steps, the names among them that are layers, and the first name of every step."""
    names: dict[str, fx.Node] = {}
    layers: set[str] = set()
    first: dict[fx.Node, str] = {}
    for path, node, layer in events:
        name, number = path, 0
        while name in names or (name in paths and not (layer and number == 0)):
            number += 1
            name = f"{path}_{number}"
        names[name] = node
        first.setdefault(node, name)
        if layer:
            layers.add(name)
    return names, layers, first


def trace(module: nn.Module) -> dict[bool, Trace]:
    """The network in train mode (True) and in eval mode (False); the module is left as it was.

    Both are needed: dropout as a function, stochastic depth and code that asks for `training` differ between them.

    Raises:
        BadCut: if its own `forward` cannot be followed, or does not take one tensor to one tensor.
    """
    with as_it_was(module):
        traces = {}
        for mode in (True, False):
            drawn = random_state()
            try:
                module.train(mode)
                traces[mode] = Trace(module)
            except SplitguardError:
                raise
            except Exception as error:
                raise BadCut(_UNTRACEABLE.format(type(module).__name__, f"{type(error).__name__}: {error}")) from error
            if random_state() != drawn:
                raise BadCut(_UNTRACEABLE.format(type(module).__name__, "it draws random numbers of its own"))
    return traces


_UNTRACEABLE = (
    "cannot cut {}: torch.fx cannot follow its forward ({}). Write the network as an nn.Sequential of its layers, or "
    "move what cannot be followed into a layer of its own, which is then kept whole."
)

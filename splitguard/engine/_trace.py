# SPDX-License-Identifier: Apache-2.0
"""A network as a graph of steps, in train and in eval mode, every step under the name of the layer that takes it."""

from __future__ import annotations

import contextlib
import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from splitguard.engine._nodes import asks_shape, count_source, draws, label, overwrites, state, unpacked
from splitguard.errors import BadCut, SplitguardError

__all__ = ["Trace", "trace"]


class Trace:
    """One network in one mode.

    Attributes:
        graph: its steps; a step that works in place stands for its input from there on.
        names: every name of a step: the path of the layer whose result it is, or of a function within a layer. The
            second time a layer is called it is ``name_1``.
        layers: those of the names that are paths of layers.
        drawing: steps that may draw random numbers, with the name under which they do.
        constants: tensors that the network's code made while it was traced.
        opaque: layers that cannot be traced through, and why; they are one step each.
        order: the place of every step in the program.
        source, result: the first and the last step.
        counts: steps whose result depends on the input's batch size alone.
        gates: steps through which everything goes that the result needs, in order.
    """

    def __init__(self, root: nn.Module) -> None:
        tracer = _Tracer()
        before = set(vars(root))
        self.graph = tracer.trace(root)
        self.constants = {k: v for k, v in vars(root).items() if k not in before and isinstance(v, Tensor)}
        self.opaque = tracer.opaque
        self.order = {node: place for place, node in enumerate(self.graph.nodes)}
        self._see_through_overwriting(root)
        self.source, *_, last = self.graph.nodes
        returned = last.args[0]
        if not isinstance(returned, fx.Node):
            raise BadCut(
                f"{type(root).__name__} must return one tensor to be cut; in {'train' if root.training else 'eval'} mode "
                f"it returns a {type(returned).__name__}. Switch auxiliary outputs off (as by aux_logits=False)."
            )
        self.result = returned
        self.names, self.layers, first = _numbered(tracer.events, {path for path, _ in root.named_modules()})
        self.drawing = {node: name for node, name in first.items() if draws(node, root)}
        self.state = {node: dict(state(node, root)) for node in self.order}
        self.counts = self._find_counts()
        self.gates = self._find_gates()

    def _see_through_overwriting(self, root: nn.Module) -> None:
        """Makes later uses of what a step overwrites uses of that step, so that the graph tells all there is."""
        shapes: set[fx.Node] = set()
        for node in list(self.graph.nodes):
            inputs = node.all_input_nodes
            if asks_shape(node) or (node.op == "call_function" and inputs and shapes.issuperset(inputs)):
                shapes.add(node)
            elif inputs and overwrites(node, root):
                place = self.order[node]
                inputs[0].replace_all_uses_with(node, delete_user_cb=lambda user, at=place: self.order[user] > at)

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
            if not unpacked(node) and not asks_shape(node):
                gates.append(node)
            node = above[node]
        return gates[::-1]

    def crossing(self, cut: fx.Node) -> list[fx.Node]:
        """The values beside ``cut`` that are made up to it and used after it."""
        found, _, _ = self.between(cut, self.result)
        return found

    def between(
        self, start: fx.Node, end: fx.Node, also: Iterator[fx.Node] | tuple[fx.Node, ...] = ()
    ) -> tuple[list[fx.Node], list[fx.Node], list[fx.Node]]:
        """What computes ``end`` (and ``also``) from ``start``.

        Returns:
            Values made before ``start`` that are needed as well; batch sizes asked of such values, which `start` knows
            too; and the steps, in order. A cut is legal at ``start`` if there are no values.
        """
        values: set[fx.Node] = set()
        sizes: set[fx.Node] = set()
        steps: set[fx.Node] = set()
        todo = [n for n in (end, *also) if n is not start]
        while todo:
            node = todo.pop()
            if node in steps or node in values or node in sizes:
                continue
            if node in self.live and self.order[node] <= self.order[start]:
                values.add(node)
                continue
            asked = count_source(node)
            if asked is not None and asked in self.live and self.order[asked] < self.order[start]:
                sizes.add(node)
                continue
            steps.add(node)
            todo += [n for n in node.all_input_nodes if n is not start]
        in_order = [sorted(found, key=self.order.__getitem__) for found in (values, sizes, steps)]
        return in_order[0], in_order[1], in_order[2]


class _Event(NamedTuple):
    """A step, and the layer or the function that it is the result of."""

    path: str
    node: fx.Node
    layer: bool


def _numbered(events: list[_Event], paths: set[str]) -> tuple[dict[str, fx.Node], set[str], dict[fx.Node, str]]:
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


class _Tracer(fx.Tracer):
    """Records which layer every step belongs to; a layer that it cannot see through becomes one step."""

    proxy_buffer_attributes = True  # else arithmetic on buffers alone would be frozen as it was while tracing

    def __init__(self) -> None:
        ops = sys.modules.get("torchvision.ops")
        super().__init__(autowrap_modules=(math, ops) if ops else (math,), param_shapes_constant=True)
        self.events: list[_Event] = []
        self.opaque: dict[str, str] = {}
        self._here: list[str] = []
        self._seen: dict[str, fx.Proxy] = {}

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """One input; further arguments of `forward` keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Remembers the cache of parameters, which must be emptied when steps are taken back."""
        self._seen = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Notes the name of a function or a method."""
        proxy = super().create_proxy(kind, *args, **kwargs)
        if kind in ("call_function", "call_method"):
            self.events.append(_Event(".".join([*self._here[-1:], label(proxy.node)]), proxy.node, False))
        return proxy

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """One step for a layer of torch's own; for others the steps within, if they can be followed."""
        path = self.path_of_module(m)
        self._here.append(path)
        try:
            out = None if self.is_leaf_module(m, path) else self._through(path, forward, args, kwargs)
            if out is None:
                out = self.create_proxy("call_module", path, args, kwargs)
        finally:
            self._here.pop()
        if isinstance(out, fx.Proxy):
            self.events.append(_Event(path, out.node, True))
        return out

    def _through(self, path: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The layer's result by its own steps; None, with nothing left behind, if they cannot be followed."""
        last = next(iter(reversed(self.graph.nodes)))
        events, before = len(self.events), _random_state()
        try:
            out = forward(*args, **kwargs)
            why = "" if _random_state() == before else "it draws random numbers that do not depend on its input"
        except Exception as error:  # a layer may fail in any way when its input is not a real tensor
            why = f"{type(error).__name__}: {error}"
        if not why:
            return out
        _restore_random(before)
        for node in list(reversed(self.graph.nodes)):
            if node is last:
                break
            self.graph.erase_node(node)
        del self.events[events:]
        self._seen.clear()
        self.opaque = {p: w for p, w in self.opaque.items() if not p.startswith(f"{path}.")} | {path: why}
        return None


def _random_state() -> tuple[bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _restore_random(state: tuple[bytes, Any]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state[0]), dtype=torch.uint8))
    random.setstate(state[1])


@contextlib.contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """A block after which every attribute of the module and its parts, and the global generators, are as before."""
    saved = [(part, dict(vars(part))) for part in module.modules()]
    drawn = _random_state()
    try:
        yield
    finally:
        _restore_random(drawn)
        for part, attributes in saved:
            vars(part).clear()
            vars(part).update(attributes)


def trace(module: nn.Module) -> dict[bool, Trace]:
    """The network in train mode (True) and in eval mode (False); the module is left as it was.

    Both are needed: dropout as a function, stochastic depth and code that asks for `training` differ between them.

    Raises:
        BadCut: if its own `forward` cannot be followed, or does not take one tensor to one tensor.
    """
    with _as_it_was(module):
        traces = {}
        for mode in (True, False):
            drawn = _random_state()
            try:
                traces[mode] = Trace(module.train(mode))
            except SplitguardError:
                raise
            except Exception as error:
                raise BadCut(_UNTRACEABLE.format(type(module).__name__, f"{type(error).__name__}: {error}")) from error
            if _random_state() != drawn:
                raise BadCut(_UNTRACEABLE.format(type(module).__name__, "it draws random numbers of its own"))
    return traces


_UNTRACEABLE = (
    "cannot cut {}: torch.fx cannot follow its forward ({}). Write the network as an nn.Sequential of its layers, or move "
    "what cannot be followed into a layer of its own, which is then kept whole."
)

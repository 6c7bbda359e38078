# SPDX-License-Identifier: Apache-2.0
"""Follows a network's forward with torch.fx, and notes which layer every step belongs to."""

from __future__ import annotations

import contextlib
import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from splitguard.engine._nodes import asks_shape, label

__all__ = ["Event", "Tracer", "as_it_was", "random_state"]


class Event(NamedTuple):
    """A step, and the layer or the function that it is the result of."""

    path: str
    node: fx.Node
    layer: bool


class Tracer(fx.Tracer):
    """Records which layer every step belongs to; a layer that it cannot see through becomes one step.

    Attributes:
        events: the steps in the order in which they are taken, under the names of functions and layers.
        numbers: steps whose result is a number, or several: shapes and what is computed of them. They have no names.
        opaque: layers that cannot be seen through, and why.
    """

    proxy_buffer_attributes = True  # else arithmetic on buffers alone would be frozen as it was while tracing

    def __init__(self) -> None:
        ops = sys.modules.get("torchvision.ops")  # a network that uses them has imported them
        known: Any = (math, ops) if ops else (math,)
        super().__init__(autowrap_modules=known, param_shapes_constant=True)
        self.events: list[Event] = []
        self.opaque: dict[str, str] = {}
        self.numbers: set[fx.Node] = set()
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
        """Notes the name of a function or a method, unless its result is a mere number."""
        proxy = super().create_proxy(kind, *args, **kwargs)
        inputs = proxy.node.all_input_nodes
        if asks_shape(proxy.node) or (kind == "call_function" and inputs and self.numbers.issuperset(inputs)):
            self.numbers.add(proxy.node)
        elif kind in ("call_function", "call_method"):
            self.events.append(Event(".".join([*self._here[-1:], label(proxy.node)]), proxy.node, False))
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
            self.events.append(Event(path, out.node, True))
        return out

    def _through(self, path: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The layer's result by its own steps; None, with nothing left behind, if they cannot be followed."""
        last = next(iter(reversed(self.graph.nodes)))
        events, before = len(self.events), random_state()
        try:
            out = forward(*args, **kwargs)
            why = "" if random_state() == before else "it draws random numbers that do not depend on its input"
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


def random_state() -> tuple[bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _restore_random(state: tuple[bytes, Any]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state[0]), dtype=torch.uint8))
    random.setstate(state[1])


@contextlib.contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """A block after which every attribute of the module and its parts, and the global generators, are as before."""
    saved = [(part, dict(vars(part))) for part in module.modules()]
    drawn = random_state()
    try:
        yield
    finally:
        _restore_random(drawn)
        for part, attributes in saved:
            vars(part).clear()
            vars(part).update(attributes)

# SPDX-License-Identifier: Apache-2.0
"""What one step of a traced network does: draws random numbers, overwrites its input, asks for the batch size."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = [
    "asks_shape",
    "count_source",
    "draws",
    "fetch",
    "has_effect",
    "is_torch_module",
    "label",
    "overwrites",
    "state",
    "take",
    "unpacked",
]

_TORCH = ("torch", "torchvision", "_operator", "math", "builtins")
# fmt: off
_DRAWING = frozenset([
    "alpha_dropout", "bernoulli", "binomial", "cauchy", "drop_block2d", "drop_block3d", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "exponential", "feature_alpha_dropout", "feature_dropout", "fractional_max_pool2d",
    "fractional_max_pool3d", "geometric", "gumbel_softmax", "log_normal", "multi_head_attention_forward",
    "multinomial", "native_dropout", "normal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "random", "randperm", "rrelu", "scaled_dot_product_attention", "shifted_window_attention",
    "stochastic_depth", "uniform",
])
_OVERWRITING = frozenset([
    operator.iadd, operator.iand, operator.iconcat, operator.ifloordiv, operator.ilshift, operator.imatmul,
    operator.imod, operator.imul, operator.ior, operator.ipow, operator.irshift, operator.isub, operator.itruediv,
    operator.ixor,
])
# fmt: on


def fetch(root: nn.Module, path: str) -> Any:
    """What ``root`` holds at a dotted path."""
    return functools.reduce(getattr, path.split("."), root)


def take(node: fx.Node, root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result of one step."""
    if node.op == "get_attr":
        return fetch(root, str(node.target))
    if node.op == "call_module":
        return fetch(root, str(node.target))(*args, **kwargs)
    if isinstance(node.target, str):
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def is_torch_module(module: nn.Module) -> bool:
    """Whether the module's class is torch's own, so that what it does is known here."""
    return type(module).__module__.startswith(("torch.nn.", "torch.ao."))


def label(node: fx.Node) -> str:
    """The name of a function or a method, without the signs of working in place: ``add`` for ``iadd`` and ``add_``."""
    if isinstance(node.target, str):
        return node.target.strip("_")
    name = getattr(node.target, "__name__", "function")
    return str(name[1:] if node.target in _OVERWRITING else name).strip("_")


def draws(node: fx.Node, root: nn.Module) -> bool:
    """Whether a step may draw random numbers, in the mode that ``root`` is in; code that is not torch's may."""
    if node.op == "call_module":
        module = fetch(root, str(node.target))
        return not is_torch_module(module) or any(map(_module_draws, module.modules()))
    if node.op == "call_method":
        return label(node) in _DRAWING
    return node.op == "call_function" and _function_draws(node)


def _function_draws(node: fx.Node) -> bool:
    if (getattr(node.target, "__module__", None) or "torch").partition(".")[0] not in _TORCH:
        return True
    if label(node) not in _DRAWING or _argument(node, "training") is False:
        return False
    if label(node) == "scaled_dot_product_attention":  # a builtin, which does not tell its parameters
        return bool(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0))
    return True


def _module_draws(module: nn.Module) -> bool:
    if isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return True
    if isinstance(module, nn.RReLU):
        return module.training
    rate = getattr(module, "p" if isinstance(module, nn.modules.dropout._DropoutNd) else "dropout", 0)
    return module.training and isinstance(rate, int | float) and rate > 0


def overwrites(node: fx.Node, root: nn.Module) -> bool:
    """Whether a step works in place: its result is its first argument, changed."""
    if node.op == "call_module":
        module = fetch(root, str(node.target))
        return is_torch_module(module) and getattr(module, "inplace", False) is True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    name = str(getattr(node.target, "__name__", ""))
    in_place = node.target in _OVERWRITING or (name.endswith("_") and not name.endswith("__"))
    return in_place or _argument(node, "inplace") is True


@functools.cache
def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (ValueError, TypeError):  # a builtin that does not say
        return ()


def _argument(node: fx.Node, name: str) -> Any:
    """What a function is called with for ``name``, or None."""
    names = _parameters(node.target)
    if name in node.kwargs or name not in names:
        return node.kwargs.get(name)
    place = names.index(name)
    return node.args[place] if place < len(node.args) else None


def has_effect(node: fx.Node, root: nn.Module) -> bool:
    """Whether a step is taken for more than its result: a check, a layer that may keep statistics, an overwriting."""
    return node.op == "call_module" or node.target is torch._assert or overwrites(node, root)


def asks_shape(node: fx.Node) -> bool:
    """Whether the result is a number or a tuple of numbers that describes a tensor."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel", "ndimension", "get_device")
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "device", "dtype", "layout", "is_cuda")
    return False


def count_source(node: fx.Node) -> fx.Node | None:
    """The tensor whose first dimension ``node`` asks for, as in ``x.shape[0]`` and ``x.size(0)``; None otherwise."""
    if node.op == "call_method" and node.target == "size" and isinstance(node.args[0], fx.Node):
        wanted = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return node.args[0] if wanted == 0 and wanted is not False else None
    if node.target is operator.getitem and node.args[1] == 0 and isinstance(node.args[0], fx.Node):
        shape = node.args[0]
        whole = shape.target is getattr and shape.args[1] == "shape"
        whole = whole or (shape.op == "call_method" and shape.target == "size" and len(shape.all_input_nodes) == 1)
        if whole and len(shape.args) + len(shape.kwargs) == (2 if shape.target is getattr else 1):
            return shape.all_input_nodes[0]
    return None


def unpacked(node: fx.Node) -> bool:
    """Whether a step hands over several values: every use takes one of them by its number."""
    if not node.users:
        return False
    return all(u.target is operator.getitem and u.args[0] is node and isinstance(u.args[1], int) for u in node.users)


def state(node: fx.Node, root: nn.Module) -> Iterator[tuple[Tensor, str]]:
    """The parameters and buffers that a step uses, with their names in the whole network."""
    path = str(node.target)
    if node.op == "call_module":
        module = fetch(root, path)
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            yield value, f"{path}.{name}"
    elif node.op == "get_attr":
        owner, _, name = path.rpartition(".")
        holder = root.get_submodule(owner)
        value = holder._parameters.get(name, holder._buffers.get(name))
        if value is not None:
            yield value, path

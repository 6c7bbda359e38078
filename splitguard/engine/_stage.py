# SPDX-License-Identifier: Apache-2.0
"""A part of a network as a module of its own, which holds the layers it uses and no others."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from splitguard.engine._nodes import fetch
from splitguard.engine._trace import Trace
from splitguard.errors import BadCut
from splitguard.seeding import reseed

__all__ = ["Stage", "build", "parts"]

_COUNT = itertools.count()


class Program:
    """Steps, compiled once; copies of a stage share it.

    Attributes:
        graph: the steps. A step's ``meta`` has its name in the network, ``layer``, and its place in it, ``place``.
        run: from a stage and its input to its output.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        code = graph.python_code("self")
        source = code.src
        for layer in {str(n.target) for n in graph.nodes if n.op == "call_module"}:
            slow, fast = _reaching(layer)
            source = source.replace(f"= {slow}(", f"= {fast}(")
        file = f"<splitguard stage {next(_COUNT)}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
        scope: dict[str, Any] = dict(code.globals)
        exec(compile(source, file, "exec"), scope)
        self.run = scope["forward"]

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __reduce__(self) -> tuple[type[Program], tuple[fx.Graph]]:
        return Program, (self.graph,)


def _reaching(path: str) -> tuple[str, str]:
    """How torch.fx writes a layer, by attributes that `nn.Module` is slow to find; and how it is reached at once."""
    slow = fast = "self"
    for name in path.split("."):
        slow = f"{slow}.{name}" if name.isidentifier() else f'getattr({slow}, "{name}")'
        fast = f'{fast}._modules["{name}"]'
    return slow, fast


class Stage(nn.Module):
    """A part of a network; its layers are the network's own, under their names there.

    In train and in eval mode it takes the steps that the network takes in that mode.
    """

    def __init__(self, train: Program, evaluate: Program) -> None:
        super().__init__()
        self._programs = (evaluate, train)

    def forward(self, x: Tensor) -> Tensor:
        """(N, *in) to (N, *out)."""
        out: Tensor = self._programs[self.training].run(self, x)
        return out

    @property
    def graph(self) -> fx.Graph:
        """The steps that are taken in the present mode."""
        return self._programs[self.training].graph


@dataclass(frozen=True)
class _Part:
    """The steps of one stage in one mode; ``sizes`` is asked of its input, ``checked`` are sizes that go on past it."""

    start: fx.Node
    end: fx.Node
    steps: set[fx.Node]
    sizes: set[fx.Node]
    checked: set[fx.Node]


def parts(trace: Trace, cuts: Sequence[fx.Node]) -> list[_Part]:
    """The steps of every stage, first to last; a batch size that a later stage needs is checked in all before it."""
    found: list[_Part] = []
    borders = [trace.source, *cuts, trace.result]
    # What comes after the result belongs to the part that ends with it.
    place = {**trace.order, trace.result: len(trace.order)}
    later: set[fx.Node] = set()
    for start, end in reversed(list(itertools.pairwise(borders))):
        span = trace.between(start, end)
        for effect in trace.effects:
            if place[start] < place[effect] <= place[end]:
                more = trace.between(start, effect)
                if not more.values:
                    span.steps |= more.steps
                    span.sizes |= more.sizes
        checked, later = later, set()
        for size in checked:
            asked = trace.between(start, size)
            span.steps |= asked.steps
            span.sizes |= asked.sizes
        later |= span.sizes
        found.insert(0, _Part(start, end, span.steps, span.sizes, checked))
    return found


def same_rows(rows: int, value: Tensor) -> None:
    """Refuses to go on with a batch size that is not one."""
    if value.shape[0] != rows:
        raise BadCut(
            f"a size that crosses this cut is {rows} while the batch has {value.shape[0]} rows, so that it is not the "
            "batch size, the only number that may cross; cut elsewhere"
        )


def compose(trace: Trace, part: _Part, mode: str) -> fx.Graph:
    """The steps of a part as a graph of its own; before each that may draw random numbers comes a `reseed`."""
    graph = fx.Graph()
    source = graph.placeholder("x")
    new: dict[fx.Node, fx.Node] = {part.start: source}

    def known(old: fx.Node) -> fx.Node:
        if old not in new:
            assert old in part.sizes, old  # a batch size asked of a value on the other side of the cut
            new[old] = graph.call_method("size", (source, 0))
        return new[old]

    for old in sorted(part.steps, key=trace.order.__getitem__):
        if old in trace.drawing:
            graph.call_function(reseed, (trace.drawing[old],))
        node = graph.node_copy(old, known)
        node.meta = {"layer": trace.first.get(old, ""), "place": trace.order[old]}
        if old.op == "get_attr" and old.target in trace.constants:
            node.target = f"{old.target}_{mode}"
        new[old] = node
    for size in sorted(part.checked, key=trace.order.__getitem__):
        graph.call_function(same_rows, (known(size), new[part.end]))
    graph.output(new[part.end])
    return graph


def build(root: nn.Module, traces: dict[bool, Trace], cuts: Sequence[dict[bool, fx.Node]]) -> list[Stage]:
    """The stages of ``root`` cut after each of ``cuts``, which are steps by mode."""
    divided = {mode: parts(trace, [cut[mode] for cut in cuts]) for mode, trace in traces.items()}
    stages = []
    for train, evaluate in zip(divided[True], divided[False], strict=True):
        programs = Program(compose(traces[True], train, "train")), Program(compose(traces[False], evaluate, "eval"))
        stages.append(Stage(*programs))
    used: list[set[fx.Node]] = [set(), *(set() for _ in cuts)]
    for mode, trace in traces.items():
        for number, part in enumerate(divided[mode]):
            used[number] |= part.steps
            _hold_plain(stages[number], root, trace, part.steps, "train" if mode else "eval")
    _hold_layers(stages, root, traces, used)
    for stage in stages:
        for folder in stage.modules():
            if type(folder) is Stage or type(folder) is nn.Module:
                folder.training = root.training
    return stages


def _hold_plain(stage: Stage, root: nn.Module, trace: Trace, steps: Iterable[fx.Node], mode: str) -> None:
    """Gives a stage the tensors it uses that are neither parameters nor buffers."""
    for node in steps:
        if node.op == "get_attr" and not trace.state[node]:
            owner, _, name = str(node.target).rpartition(".")
            if node.target in trace.constants:
                setattr(stage, f"{node.target}_{mode}", trace.constants[str(node.target)])
            else:
                setattr(_folder(stage, owner), name, fetch(root, str(node.target)))


def _hold_layers(
    stages: list[Stage], root: nn.Module, traces: dict[bool, Trace], used: Sequence[Iterable[fx.Node]]
) -> None:
    """Gives every stage its layers, parameters and buffers; what no stage uses goes to the last one."""
    layers: dict[nn.Module, list[int]] = {}
    tensors: dict[Tensor, int] = {}
    for number, steps in enumerate(used):
        for node in steps:
            trace = next(t for t in traces.values() if node in t.order)
            tensors |= dict.fromkeys(trace.state[node], number)
            if node.op == "call_module":
                layers.setdefault(fetch(root, str(node.target)), []).append(number)
    whole: list[tuple[int, str]] = []  # layers that a stage holds as one piece, and all that is in them

    def within(number: int, path: str) -> bool:
        return any(n == number and (path == p or path.startswith(f"{p}.")) for n, p in whole)

    for path, module in root.named_modules(remove_duplicate=False):
        for number in sorted(set(layers.get(module, ()))):
            if path and not within(number, path):
                owner, _, name = path.rpartition(".")
                _folder(stages[number], owner).add_module(name, module)
                whole.append((number, path))
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is None:
                continue
            number = tensors.get(value, len(stages) - 1)
            if within(number, path):
                continue
            folder = _folder(stages[number], path)
            if isinstance(value, nn.Parameter):
                folder.register_parameter(name, value)
            else:
                folder.register_buffer(name, value, persistent=name not in module._non_persistent_buffers_set)


def _folder(stage: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path of a stage, made if need be."""
    for name in filter(None, path.split(".")):
        if name not in stage._modules:
            stage.add_module(name, nn.Module())
        stage = stage.get_submodule(name)
    return stage

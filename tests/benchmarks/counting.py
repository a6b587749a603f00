"""What a step moves, starts and computes, counted on fake tensors at true sizes and told apart by the file that asks.

An operation belongs to the innermost file of `pipeline` on the stack; one of the backward pass to the file of its
forward operation, found by autograd's sequence numbers. What runs inside a method's own modules with weights (CCT's
decoders, GCT's detector, PseudoSeg's attention) is the networks' too, and so are layers of a classifier that a method
calls one by one. Views cost nothing, everything else is one launch. Every operand is read and every result written
once; of a table that is gathered from, only what is gathered. Convolutions and products count their multiplications and
additions, a sort n log n, all else one operation an element.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipeline.commands.forecast import synthetic_run
from pipeline.models.segnet import SegNet
from pipeline.training.engine import train_step

PACKAGE = str(Path(train_step.__code__.co_filename).parents[1])
OPTIMISER = "torch/optim"
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "lift_fresh", "_unsafe_view", "alias"}
GATHERS = {"index_select", "gather", "index", "embedding"}
SCATTERS = {"index_copy_", "index_put_", "scatter_", "index_add_", "scatter_add_"}


@dataclass
class Tally:
    """What was counted: launches, bytes read and written, operations."""

    launches: int = 0
    moved_bytes: int = 0
    operations: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.launches + other.launches,
            self.moved_bytes + other.moved_bytes,
            self.operations + other.operations,
        )


class Counting(TorchDispatchMode):
    """Counts what runs inside, by file (`models/decoder`, `training/contrast`, `torch/optim`) and by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.by_file: dict[str, Tally] = defaultdict(Tally)
        self.by_operation: dict[tuple[str, str], Tally] = defaultdict(Tally)
        self._inside = ""
        self._numbers: list[int] = []
        self._files: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        file, name = self._file(), func._schema.name.removeprefix("aten::")
        if func.namespace == "aten" and not (func.is_view or name in FREE):
            tally = Tally(1, moved_bytes(name, (args, kwargs), result), operations(func, (args, kwargs), result))
            self.by_file[file] += tally
            self.by_operation[file, name] += tally
        return result

    def total(self, wanted: Callable[[str], bool]) -> Tally:
        """Return the sum over the files that are wanted."""
        return sum((tally for file, tally in self.by_file.items() if wanted(file)), Tally())

    def follow(self, module: nn.Module, file: str) -> None:
        """Count what runs inside a module's forward as a file's."""
        module.register_forward_pre_hook(lambda *_: setattr(self, "_inside", file))
        module.register_forward_hook(lambda *_: setattr(self, "_inside", ""))

    def _file(self) -> str:
        node = torch._C._current_autograd_node()
        if node is not None:
            if "AccumulateGrad" in node.name():
                return "models"
            found = bisect_right(self._numbers, node._sequence_nr())
            return self._files[found - 1] if found else "models"
        file = self._inside or asking(sys._getframe(1))
        number = torch._C._autograd._get_sequence_nr() - 1
        if not self._numbers or number > self._numbers[-1]:
            self._numbers.append(number)
            self._files.append(file)
        return file


def asking(frame: FrameType | None) -> str:
    """Return the innermost file of the package, or the optimiser, that a frame was called from."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            return path[len(PACKAGE) + 1 :].removesuffix(".py")
        if OPTIMISER in path:
            return OPTIMISER
        frame = frame.f_back
    return "elsewhere"


def is_network(file: str) -> bool:
    """Return whether a file's operations are the networks' own."""
    return file.split("/", maxsplit=1)[0] == "models"


def moved_bytes(name: str, given: Any, result: Any) -> int:
    """Return the bytes an operation reads and writes, each operand once; broadcast operands as they are stored."""
    read = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if name in GATHERS:
        return sum(map(size_bytes, read[1:])) + 2 * sum(map(size_bytes, written))
    if name in SCATTERS:
        return sum(map(size_bytes, read[1:])) + size_bytes(read[-1])
    if name in ("zero_", "fill_") or name.startswith(("zeros", "ones", "full", "arange", "new_")):
        return sum(map(size_bytes, written))
    if not written and name.startswith(("_foreach", "_fused")):  # written in place, lists first
        return 2 * sum(map(size_bytes, read))
    return sum(map(size_bytes, read)) + sum(map(size_bytes, written))


def size_bytes(tensor: Tensor) -> int:
    """Return what a tensor takes in memory, less where it is broadcast."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def operations(func: Any, given: tuple[Any, Any], result: Any) -> float:
    """Return the arithmetic of an operation."""
    if func._overloadpacket in flop_registry:
        return flop_registry[func._overloadpacket](*given[0], **given[1], out_val=result)
    name = func._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((given, result)) if isinstance(leaf, Tensor)]
    if name in GATHERS | SCATTERS:  # but the table: first of what is given, and what a scatter in place returns
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)][1:]
        tensors += [result] if name in GATHERS else []
    if func._schema.name.startswith(("aten::_foreach", "aten::_fused")):
        return sum(tensor.numel() for tensor in tensors)
    most = max((tensor.numel() for tensor in tensors), default=0)
    if func._schema.name in ("aten::sort", "aten::topk", "aten::kthvalue"):
        dim = given[1].get("dim", -1)
        return most * math.log2(max(2, tensors[0].shape[dim] if tensors[0].dim() else 2))
    return most


def count(row: dict[str, Any]) -> Counting:
    """Return what the second step of a resolved row costs: by then the optimiser has its state."""
    mode = FakeTensorMode()
    run = synthetic_run(row, mode)
    with mode:
        train_step(run)
        with Counting() as counting:
            for module in own_networks(run.method):
                counting.follow(module, "models/of the method")
            train_step(run)
    return counting


def own_networks(method: nn.Module) -> list[nn.Module]:
    """Return a method's modules with weights that are part of no network, and the layers of its classifiers."""
    found = [part for net in method.modules() if isinstance(net, SegNet) for part in net.classifier]
    for child in method.children():
        if not any(isinstance(module, SegNet) for module in child.modules()) and any(True for _ in child.parameters()):
            found += list(child) if isinstance(child, nn.ModuleList) else [child]
    return found

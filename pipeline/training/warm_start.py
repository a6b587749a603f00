"""The supervised first epochs, shared by every cell that continues from them.

A warm start trains one network on the labelled half alone and saves it with its optimiser state and step count. The
schedule is the whole run's and goes on in the cell that takes over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.segnet import SegNet
from pipeline.training.method import Method, Progress, Setting


class WarmStart(Method):
    """One network and the supervised loss."""

    reads = "nothing"

    def __init__(self, setting: Setting, representation: bool) -> None:
        super().__init__(setting, None)
        self.student = setting.build(representation=representation)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the protocol's supervised loss."""
        return {"supervised": self.setting.supervised(self.student(batch.labelled), batch.mask)}


def warm_start_state(network: SegNet, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the network and, by parameter name, what the optimiser remembers of it."""
    memory = {name: optimiser.state.get(parameter, {}) for name, parameter in network.named_parameters()}
    return {"network": network.state_dict(), "optimiser": memory}


def load_warm_start(method: Method, optimiser: torch.optim.Optimizer, *, states: list[dict[str, Any]]) -> None:
    """Give each of the method's networks, and the optimiser, what a warm start saved."""
    for network, state in zip(method.networks(), states, strict=True):
        network.load_state_dict(state["network"])
        for name, parameter in network.named_parameters():
            if state["optimiser"][name]:
                optimiser.state[parameter] = {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in state["optimiser"][name].items()
                }

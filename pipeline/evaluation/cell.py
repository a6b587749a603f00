"""The `evaluate` cell: a trained cell's networks, best and last epoch, measured on the whole of val."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.data.open import open_validation
from pipeline.data.samples import Samples
from pipeline.evaluation.confusion import Summary
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.models.build import ModelConfig, build_network
from pipeline.models.segnet import SegNet

EPOCHS = ("best", "last")


def evaluate_cell(values: dict[str, Any], *, data_root: Path, trained: Path) -> dict[str, Any]:
    """Measure the networks in `trained/weights.pt` and return `metrics`: network -> epoch -> padding -> figures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    snapshots = torch.load(trained / "weights.pt", map_location=device, weights_only=True)
    samples, began = open_validation(values, data_root), time.monotonic()
    metrics: dict[str, dict[str, dict[str, Summary]]] = {name: {} for name in snapshots["last"]}
    for epoch in EPOCHS:
        networks = {name: restore(values, state, device=device) for name, state in snapshots[epoch].items()}
        for name, summary in measure(networks, samples, values=values, device=device).items():
            metrics[name][epoch] = summary
    return {"state": "done", "metrics": metrics, "evaluate_s": round(time.monotonic() - began, 2)}


def measure(
    networks: Mapping[str, SegNet],
    samples: Samples,
    *,
    values: dict[str, Any],
    device: str,
    selecting: bool = False,
) -> dict[str, dict[str, Summary]]:
    """Measure networks as the cell's `evaluation` block says: in its `mode`; `selecting`, in its `select_mode` if any.

    The released code chooses Cityscapes' best epoch on centre crops and measures it by sliding windows.
    """
    block = values["evaluation"]
    evaluation = Evaluation(mode=(selecting and block["select_mode"]) or block["mode"], size=block["size"])
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=block["precision"] == "bfloat16"):
        return evaluate(networks, samples, evaluation=evaluation, device=device, batch_images=block["batch_images"])


def restore(values: dict[str, Any], state: dict[str, torch.Tensor], *, device: str) -> SegNet:
    """Build a cell's network and give it saved weights."""
    config = ModelConfig(**(values["model"] | {"weights": None}))
    network = build_network(config, num_classes=values["data"]["num_classes"], representation=values["representation"])
    network.load_state_dict(state)
    return network.to(device).to(memory_format=torch.channels_last)

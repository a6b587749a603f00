"""Every method at the size of a thumb: a network of a few thousand weights, images of 32 x 32, parameters by name."""

from __future__ import annotations

import dataclasses
import importlib
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.data.batch import Batch
from pipeline.models.build import ModelConfig, build_network
from pipeline.models.segnet import SegNet
from pipeline.training.losses import Criterion
from pipeline.training.method import Method, Progress, Setting

FOLDER = Path(__file__).parent
TABLE = runpy.run_path(str(FOLDER / "parameters.py"))
PARAMETERS, HOST_DECISIONS, SIZES = TABLE["PARAMETERS"], TABLE["HOST_DECISIONS"], TABLE["SIZES"]
METHODS = sorted(
    path.stem for path in (FOLDER.parents[1] / "pipeline" / "methods").glob("*.py") if path.stem != "__init__"
)
SIZE = 32
MODEL: dict[str, Any] = {
    "backbone": "resnet",
    "encoder": {"stem": "deep", "blocks": (1, 1, 1, 1), "width": 8, "expansion": 1, "multi_grid": (2,)},
    "output_stride": 8,
    "aspp_rates": (1, 2),
    "decoder_channels": 16,
    "low_level_channels": 16,
    "representation_channels": 16,
    "auxiliary": False,
    "dropout": 0.0,
    "weights": None,
}


def make_method(
    name: str, *, num_classes: int = 21, resolution: str = "network", pointwise: bool = False, **changes: Any
) -> Method:
    """Build a method in train mode, after `begin`, from its test parameters with `changes`.

    Changes that are keys of the model go there.
    """
    model = MODEL | {key: changes.pop(key) for key in list(changes) if key in MODEL}

    def build(*, representation: bool = False) -> SegNet:
        network = build_network(ModelConfig(**model), num_classes=num_classes, representation=representation)
        return make_pointwise(network) if pointwise else network

    criterion = Criterion("ce", ohem_threshold=0.7, ohem_min_kept=100, auxiliary_weight=0.4, loss_resolution=resolution)
    module = importlib.import_module(f"pipeline.methods.{name}")
    parameters = module.Parameters(**PARAMETERS[name] | changes)
    method = module.Method(Setting(build, criterion, num_classes, resolution), parameters)
    method.begin()
    return method.train()


def make_batch(seed: int = 0, *, num: int = 2, num_classes: int = 21, size: int = SIZE) -> Batch:
    """Make a batch of noise: labels in blocks of 8 pixels, a quarter of each unlabelled image padding."""
    generator = torch.Generator("cpu").manual_seed(seed)
    blocks = torch.randint(num_classes, (num, size // 8, size // 8), generator=generator)
    blocks[:, 0, 0] = 255
    valid = torch.ones(num, size, size, dtype=torch.bool)
    valid[:, :, size - size // 4 :] = False
    return Batch(
        labelled=torch.randn(num, 3, size, size, generator=generator),
        mask=blocks.repeat_interleave(8, 1).repeat_interleave(8, 2),
        unlabelled=torch.randn(num, 3, size, size, generator=generator),
        valid=valid,
        presence=torch.rand(num, num_classes, generator=generator) < 0.5,
    )


def make_progress(step: int = 0, total_steps: int = 10) -> Progress:
    """Say where training stands, with two steps an epoch."""
    return Progress(step, total_steps, step // 2, total_steps // 2)


def losses(method: Method, batch: Batch, *, step: int = 0, seed: int = 0) -> dict[str, Tensor]:
    """Return the losses of one step under a fixed seed, as the engine would ask for them."""
    torch.manual_seed(seed)
    return method.losses(batch, make_progress(step))


def total(values: dict[str, Tensor]) -> Tensor:
    """Return what is minimised."""
    return torch.stack(list(values.values())).sum()


def train(method: Method, *, steps: int, first: int = 0, lr: float = 0.05) -> list[dict[str, float]]:
    """Train by SGD with momentum, as the engine does, on images that hide none of its losses; return each step's."""
    size = SIZES.get(type(method).__module__.rpartition(".")[2], SIZE)
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    history = []
    for step in range(first, first + steps):
        values = losses(method, make_batch(step, size=size), step=step, seed=step)
        optimiser.zero_grad()
        total(values).backward()
        optimiser.step()
        method.after_step(step)
        history.append({name: float(value.detach()) for name, value in values.items()})
    return history


def make_pointwise(network: SegNet) -> SegNet:
    """Let every logit depend on one pixel of the image alone: no spatial filter, no norm."""
    c1, c2, c3, c4 = network.feature_channels
    network.encoder = PointEncoder([c1, c2, c3, c4])  # type: ignore[assignment]
    network.decoder = PointDecoder(c1 + c4, network.fused_channels)  # type: ignore[assignment]
    network.classifier = nn.Sequential(nn.Conv2d(network.fused_channels, network.num_classes, 1))  # type: ignore[assignment]
    if network.represent is not None:
        network.represent = nn.Conv2d(network.fused_channels, network.representation_channels, 1)  # type: ignore[assignment]
    return network


class PointEncoder(nn.Module):
    """Every fourth pixel, mapped to four sets of channels."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, number, 1) for number in channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [stage(image[:, :, ::4, ::4]).relu() for stage in self.stages]


class PointDecoder(nn.Module):
    """A 1x1 over the first and the last of them."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 1)

    def forward(self, c1: Tensor, c4: Tensor) -> Tensor:
        return self.conv(torch.cat([c1, c4], dim=1)).relu()


def pretend_cuda(method: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer by a fake one on a CUDA device that need not exist."""
    for module in method.modules():
        for key, parameter in module.named_parameters(recurse=False):
            fake = mode.from_tensor(parameter).detach().to("cuda")
            setattr(module, key, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, mode.from_tensor(buffer).to("cuda"))


def pretend_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    """Return a batch of fakes on that device."""
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return Batch(**{key: mode.from_tensor(value).to("cuda") for key, value in parts.items()})

"""Published weights are fetched by the driver; a worker reads them, and never asks the network."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models import pretrained
from pipeline.models.backbones.timm import TimmEncoder
from pipeline.models.backbones.timm import build_encoder as build_timm
from pipeline.models.build import ModelConfig, build_network
from pipeline.models.prepare import models_of, prepare_weights
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
BLOCKS = [1, 1, 1, 1]
ENCODER: dict[str, Any] = {"stem": "7x7", "blocks": BLOCKS, "width": 4, "expansion": 4, "multi_grid": [1]}
MODEL: dict[str, Any] = {
    "backbone": "resnet", "encoder": ENCODER, "output_stride": 16, "aspp_rates": [1], "decoder_channels": 4,
    "low_level_channels": 4, "representation_channels": 4, "auxiliary": False, "dropout": 0.0, "weights": "torchvision",
}  # fmt: skip


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with the weights of a small ResNet in place of torchvision's, and no network at all."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("DATA_MIRROR", str(folder))
    torch.manual_seed(1)
    saved = build_network(ModelConfig(**MODEL | {"weights": None}), num_classes=3).encoder.state_dict()
    torch.save(saved, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    file = (folder / "new.pth").rename(folder / f"resnet-{digest}.pth")
    monkeypatch.setattr(pretrained, "TORCHVISION", {tuple(BLOCKS): file.name})
    return file


def test_what_the_driver_prepared_a_worker_builds_from_without_a_network(mirror: Path) -> None:
    (path,) = prepare_weights([MODEL, MODEL | {"weights": None}])
    assert path == pretrained.cache_folder() / mirror.name
    network: Any = build_network(ModelConfig(**MODEL), num_classes=3)
    assert torch.equal(network.encoder.conv1.weight, torch.load(mirror, weights_only=True)["conv1.weight"])


def test_weights_nobody_prepared_are_named_with_what_prepares_them(mirror: Path) -> None:
    with pytest.raises(ValueError, match=r"resnet-.*pth is not there, and workers download nothing; `python -m"):
        build_network(ModelConfig(**MODEL), num_classes=3)
    with pytest.raises(ValueError, match=r"timm-resnet18.pt is not there"):
        build_timm({"name": "resnet18", "frozen": []}, output_stride=16, weights="timm")


def test_a_damaged_file_in_the_mirror_is_refused_and_nothing_is_left(mirror: Path) -> None:
    mirror.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"is not the published file: its 10 bytes do not match sha256:"):
        prepare_weights([MODEL])
    assert list(pretrained.cache_folder().iterdir()) == []


def test_timms_weights_are_saved_once_and_loaded_key_by_key(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = {"name": "resnet18", "frozen": []}
    torch.manual_seed(2)
    hub = TimmEncoder("resnet18", output_stride=16, pretrained=False)
    asked: list[bool] = []

    def from_hub(name: str, *, output_stride: int, pretrained: bool) -> TimmEncoder:
        asked.append(pretrained)
        return hub

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.models.backbones.timm.TimmEncoder", from_hub)
        for _ in range(2):
            prepare_weights([{"weights": "timm", "encoder": encoder}])
    assert asked == [True]
    built = build_timm(encoder, output_stride=8, weights="timm")
    assert all(torch.equal(value, hub.state_dict()[key]) for key, value in built.state_dict().items())


def test_the_papers_scale_asks_for_resnet_101() -> None:
    scales = project_params()["scales"]
    needed = [pretrained.published_file(m["weights"], m["encoder"]) for m in models_of(scales["paper"])]
    assert {path.name for path in needed} == {"resnet101-63fe2227.pth"}
    assert not any(m["weights"] in ("torchvision", "timm") for m in models_of(scales["embedded"]))

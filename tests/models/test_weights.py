"""Loading an encoder's weights: every key is accounted for, and a mismatch says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from pipeline.models.backbones.resnet import EncoderShape, ResNet
from pipeline.models.prepare import URL
from pipeline.models.pretrained import TORCHVISION, cache_folder
from pipeline.models.weights import load_encoder

BLOCKS = (1, 1, 1, 1)


def make(stem: str = "7x7", blocks: tuple[int, ...] = BLOCKS, width: int = 4) -> Any:
    grid = (1,) * blocks[-1]
    return ResNet(EncoderShape(stem=stem, blocks=blocks, width=width, expansion=4, output_stride=8, multi_grid=grid))


def save(path: Path, state: dict[str, Any]) -> str:
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(("blocks", "name"), [((3, 4, 6, 3), "resnet50"), ((3, 4, 23, 3), "resnet101")])
def test_the_7x7_encoder_has_torchvisions_keys_and_shapes(blocks: tuple[int, ...], name: str) -> None:
    assert blocks in TORCHVISION
    with torch.device("meta"):
        ours, theirs = make(blocks=blocks, width=64), getattr(torchvision.models, name)()
    expected = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected


def test_the_deep_encoder_has_the_keys_and_channels_of_the_released_checkpoint() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in make("deep", (3, 4, 23, 3), 64).state_dict().items()}
    stem = {key.rsplit(".", 1)[0] for key in shapes if not key.startswith("layer")}
    convolutions = [shapes[f"conv1.{place}.weight"] for place in (0, 3, 6)]
    assert convolutions == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert shapes["layer1.0.conv1.weight"] == (64, 128, 1, 1)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 128, 1, 1)
    assert stem == {"conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"}


@pytest.mark.parametrize("stem", ["deep", "7x7"])
def test_a_saved_encoder_is_loaded_whole_without_its_classifier(tmp_path: Path, stem: str) -> None:
    saved, encoder = make(stem), make(stem)
    state = saved.state_dict() | {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}
    load_encoder(encoder, save(tmp_path / "weights.pt", state), blocks=BLOCKS)
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_torchvisions_weights_are_loaded_into_an_encoder_of_their_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache_folder().mkdir(parents=True)
    torch.manual_seed(0)
    theirs: Any = torchvision.models.resnet50()
    save(cache_folder() / TORCHVISION[3, 4, 6, 3], theirs.state_dict())
    encoder = make(blocks=(3, 4, 6, 3), width=64)
    load_encoder(encoder, "torchvision", blocks=(3, 4, 6, 3))
    assert torch.equal(encoder.conv1.weight, theirs.conv1.weight)
    assert torch.equal(encoder.layer4[2].bn3.running_var, theirs.layer4[2].bn3.running_var)


def test_the_cache_is_torchs_own_and_the_files_are_those_torchvision_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for change in ({"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path)}, {}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in change.items():
            monkeypatch.setenv(name, value)
        assert cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    for name, blocks in {"ResNet50": (3, 4, 6, 3), "ResNet101": (3, 4, 23, 3), "ResNet152": (3, 8, 36, 3)}.items():
        url = getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.url
        assert url == f"{URL}/{TORCHVISION[blocks]}"


def test_checkpoints_that_do_not_count_batches_are_accepted(tmp_path: Path) -> None:
    state = {key: value for key, value in make().state_dict().items() if not key.endswith("num_batches_tracked")}
    load_encoder(make(), save(tmp_path / "weights.pt", state), blocks=BLOCKS)


def test_a_mismatch_names_every_key_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"model\.encoder\.stem right.*missing: conv1\.0\.weight.*unexpected: conv1\.weight"
    ) as e:
        load_encoder(make("deep"), save(tmp_path / "weights.pt", make("7x7").state_dict()), blocks=BLOCKS)
    assert "of another shape: bn1.bias" in str(e.value)
    state = make().state_dict()
    del state["layer2.0.bn3.bias"]
    with pytest.raises(ValueError, match=r"missing: layer2\.0\.bn3\.bias$"):
        load_encoder(make(), save(tmp_path / "weights.pt", state), blocks=BLOCKS)


def test_weights_that_are_not_there_or_not_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file; allowed: null, 'torchvision', or the path"):
        load_encoder(make(), str(tmp_path / "none.pt"), blocks=BLOCKS)
    with pytest.raises(ValueError, match="must hold a plain state dict"):
        load_encoder(make(), save(tmp_path / "list.pt", {"state": {"a": torch.zeros(1)}}), blocks=BLOCKS)
    (tmp_path / "page.pt").write_bytes(b"hello world")
    with pytest.raises(ValueError, match=r"model\.weights '.*page\.pt' cannot be read as a state dict"):
        load_encoder(make(), str(tmp_path / "page.pt"), blocks=BLOCKS)
    with pytest.raises(ValueError, match=r"model\.encoder\.blocks is \[1, 1, 1, 1\]; with .* allowed: \[3, 4, 6, 3\]"):
        load_encoder(make(), "torchvision", blocks=BLOCKS)

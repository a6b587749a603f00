"""A trained cell used on images of one's own: masks and overlays for a folder, and a program that needs torch alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.data.images import read_image, voc_palette, write_mask
from pipeline.data.layout import IMAGE_SUFFIXES
from pipeline.data.normalise import MEAN, STD, Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.cell import EPOCHS, restore
from pipeline.evaluation.predict import Evaluation, predict, whole_logits
from pipeline.evaluation.predictions import save_predictions
from pipeline.models.segnet import SegNet

OVERLAY_SHARE = 0.5
WINDOWS_AT_ONCE = 4
WHOLE_PIXELS = 2048 * 2048
LARGE_WINDOW = 1024
"""Images of more pixels than WHOLE_PIXELS are predicted by windows of this size whatever the cell's mode: of memory."""


@dataclass(frozen=True)
class Trained:
    """A network with the values of the cell it comes from."""

    network: SegNet
    values: dict[str, Any]
    name: str
    epoch: str


def load_trained(folder: Path, *, epoch: str = "best", network: str = "deployed") -> Trained:
    """Load a network from a `train` cell's folder in the store (`cell.json`, `weights.pt`), or a copy of it.

    `deployed` is the network the method deploys, its teacher if it has one. Raises ValueError where the folder, the
    epoch or the network is not there.
    """
    for name in ("cell.json", "weights.pt"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name} there; a trained cell's folder has cell.json and weights.pt")
    cell = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    if cell["kind"] != "train":
        raise ValueError(f"{folder}: a {cell['kind']} cell; the networks of a train cell are asked for")
    values = cell["values"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    snapshots = torch.load(folder / "weights.pt", map_location=device, weights_only=True)
    if epoch not in EPOCHS:
        raise ValueError(f"epoch {epoch!r}; allowed: {', '.join(EPOCHS)}")
    states = snapshots[epoch]
    chosen = list(states)[-1] if network == "deployed" else network
    if chosen not in states:
        raise ValueError(f"network {network!r}; this cell has: deployed, {', '.join(states)}")
    return Trained(restore(values, states[chosen], device=device).eval(), values, chosen, epoch)


def find_images(folder: Path, out: Path) -> list[Path]:
    """Return the images below a folder, those behind links too, but not what lies in `out`.

    Raises ValueError where there is none or a folder cannot be read, and where `out` holds the folder, whose own masks
    might be there.
    """
    folder, written = Path(folder), Path(out).resolve()
    if folder.resolve().is_relative_to(written):
        raise ValueError(f"--out {out} holds the images of {folder}; name a folder beside or below it")
    try:
        paths = _images_below(folder, out=written, above=())
    except OSError as error:
        raise ValueError(f"the images cannot be listed: {error}") from None
    if not paths:
        raise ValueError(f"{folder}: no image there; known are {', '.join(IMAGE_SUFFIXES)}")
    return paths


def _images_below(folder: Path, *, out: Path, above: tuple[Path, ...]) -> list[Path]:
    """List a folder and those in it; `above` are the folders around it, into which a link may lead back."""
    place = folder.resolve()
    if place == out or place in above:
        return []
    paths: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            paths += _images_below(path, out=out, above=(*above, place))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            paths.append(path)
    return paths


def predict_folder(
    trained: Trained, paths: list[Path], *, images: Path, out: Path
) -> Iterator[tuple[Path, str | None]]:
    """Write `<out>/masks/*.png` (palette PNG of class ids) and `<out>/overlays/*.jpg`; yield each image as it is done.

    `paths` are images below the folder `images`, and their masks have the same places below `masks`. With an image
    comes why it was left out, or None. Every file appears whole.
    """
    normalise = Normalise(next(trained.network.parameters()).device)
    stems = Counter(path.with_suffix("") for path in paths)
    # Where a.jpg lies beside a.png, masks are a.jpg.png and a.png.png.
    whole_names = {stem.parent for stem, number in stems.items() if number > 1}
    background = has_background(trained.values)
    for path in paths:
        place = path.relative_to(images)
        name = place.name if path.parent in whole_names else place.stem
        try:
            image = read_image(path)
            ids = class_ids(trained, normalise(torch.from_numpy(image)[None]))
            _write(out / "masks" / place.with_name(f"{name}.png"), ids)
            _write(out / "overlays" / place.with_name(f"{name}.jpg"), overlay(image, ids, background=background))
        except (OSError, ValueError) as error:  # it cannot be read, or is longer than a JPEG may be
            yield path, str(error)
        else:
            yield path, None


def predict_validation(trained: Trained, samples: Samples, *, out: Path) -> Iterator[Path]:
    """Write `<out>/<id>.png` (palette PNG of class ids) for the images the cell is measured on, in its own mode.

    255 is what a centre crop leaves uncovered. Yields each image as it is done. `samples` is what `open_validation`
    gives.
    """
    block = trained.values["evaluation"]
    evaluation = Evaluation(mode=block["mode"], size=block["size"])
    device = next(trained.network.parameters()).device
    for pair in samples.pairs:
        one = Samples([pair], num_classes=samples.num_classes)
        with torch.autocast(device.type, torch.bfloat16, enabled=block["precision"] == "bfloat16"):
            save_predictions(trained.network, one, folder=out, evaluation=evaluation, device=device)
        yield pair.image


@torch.inference_mode()
def class_ids(trained: Trained, images: Tensor) -> np.ndarray:
    """Return class ids (H, W) uint8 of a normalised image (1, 3, H, W).

    By sliding windows where the cell has them, and where the image is too large to be held whole.
    """
    block = trained.values["evaluation"]
    evaluation = Evaluation(mode="slide" if block["mode"] == "slide" else "whole", size=block["size"])
    if evaluation.mode == "whole" and images.shape[-2] * images.shape[-1] > WHOLE_PIXELS:
        evaluation = Evaluation(mode="slide", size=LARGE_WINDOW)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=block["precision"] == "bfloat16"):
        ids = predict(trained.network, images, evaluation=evaluation, batch=WINDOWS_AT_ONCE)
    return ids[0].to(torch.uint8).cpu().numpy()


def has_background(values: dict[str, Any]) -> bool:
    """Return whether class 0 is a background: everywhere but on Cityscapes, where it is road."""
    return values["data"]["layout"] != "cityscapes"


def overlay(image: np.ndarray, ids: np.ndarray, *, background: bool) -> np.ndarray:
    """Return the image (H, W, 3) uint8 with the classes' colours laid over it; a background stays as it is."""
    colours = np.array(voc_palette(), dtype=np.float32).reshape(256, 3)[ids]
    mixed = (1 - OVERLAY_SHARE) * image + OVERLAY_SHARE * colours
    return np.where((background & (ids == 0))[..., None], image, mixed).astype(np.uint8)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 2:
        write_mask(path, pixels)
    else:
        partial = path.with_name(f".{path.name}.part{path.suffix}")
        Image.fromarray(pixels).save(partial, quality=92)
        partial.replace(path)


class Exported(nn.Module):
    """What is exported: RGB images (B, 3, H, W) float32, 0-255, to logits (B, C, H, W) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: SegNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        return whole_logits(self.network, (images - self.mean) / self.std)


def export(trained: Trained, out: Path, *, height: int, width: int) -> Path:
    """Write `<out>/model.pt2`, a `torch.export` program, and `model.json`, which says what it is.

    Batches of any size, images of the given size. Raises ValueError where the program's logits are not the network's.
    """
    network = (
        trained.network.cpu().float().to(memory_format=torch.contiguous_format)
    )  # any other layout is not saved whole
    model = Exported(network).eval()
    images = 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", max=1024)},))
        expected, found = model(images[:1]), program.module()(images[:1])
    worst = (expected - found).abs().max().item()
    if not worst <= 1e-4:  # nor NaN
        raise ValueError(f"the exported program's logits differ from the network's by up to {worst:g}")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".model.part.pt2"
    torch.export.save(program, partial)
    partial.replace(out / "model.pt2")
    facts: dict[str, Any] = {
        "network": trained.name,
        "epoch": trained.epoch,
        "input": "RGB float32 0-255 (B, 3, height, width)",
    }
    facts |= {"output": "logits (B, C, height, width)", "height": height, "width": width, "largest_difference": worst}
    text = json.dumps(facts | {"values": trained.values}, indent=1)
    (out / "model.json").write_text(text, encoding="utf-8")
    return out / "model.pt2"

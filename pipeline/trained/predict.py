"""A trained cell used on images: masks and overlays for a folder of one's own, masks for the validation images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.images import IGNORED, read_image, voc_palette, write_mask
from pipeline.data.layout import IMAGE_SUFFIXES, files_below
from pipeline.data.normalise import Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.cell import EPOCHS, restore
from pipeline.evaluation.frame import frame_tensors, framed
from pipeline.evaluation.predict import Evaluation, predict
from pipeline.files import read_json, written_whole
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
    key: str
    result: dict[str, Any] = field(default_factory=dict)
    """What its training reported, empty where its folder has no `result.json`."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


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
    restored = restore(values, states[chosen], device=device).eval()
    return Trained(restored, values, chosen, epoch, cell["key"], read_json(folder / "result.json") or {})


def find_images(folder: Path, out: Path) -> list[Path]:
    """Return the images below a folder, those behind links too, but nothing hidden and not what lies in `out`.

    Raises ValueError where there is none or a folder cannot be read, and where `out` holds the folder, whose own masks
    might be there.
    """
    folder, written = Path(folder), Path(out).resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder}: {'a file' if folder.exists() else 'not there'}; a folder of images is asked for")
    if folder.resolve().is_relative_to(written):
        raise ValueError(f"--out {out} holds the images of {folder}; name a folder beside or below it")
    try:
        found = [path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        paths = sorted(path for path in found if not path.parent.resolve().is_relative_to(written))
    except OSError as error:
        raise ValueError(f"the images cannot be listed: {error}") from None
    if not paths:
        raise ValueError(f"{folder}: no image there; known are {', '.join(IMAGE_SUFFIXES)}")
    return paths


def predict_folder(
    trained: Trained, paths: list[Path], *, images: Path, out: Path
) -> Iterator[tuple[Path, str | None]]:
    """Write `<out>/masks/*.png` (palette PNG of class ids) and `<out>/overlays/*.jpg`; yield each image as it is done.

    `paths` are images below the folder `images`, and their masks have the same places below `masks`. With an image
    comes why it was left out, or None. Every file appears whole.
    """
    normalise = Normalise(trained.device)
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


@torch.inference_mode()
def predict_validation(trained: Trained, samples: Samples, *, out: Path) -> Iterator[Path]:
    """Write `<out>/<id>.png` (palette PNG of class ids) for the images the cell is measured on, in its own mode.

    255 is what a centre crop leaves uncovered. Yields each image as it is done. `samples` is what `open_validation`
    gives.
    """
    block, normalise = trained.values["evaluation"], Normalise(trained.device)
    evaluation = Evaluation(mode=block["mode"], size=block["size"])
    for index, pair in enumerate(samples.pairs):
        frame = framed(samples, index, evaluation=evaluation)
        height, width, _ = samples[index][0].shape
        images, _ = frame_tensors([frame], normalise)
        with torch.autocast(trained.device.type, torch.bfloat16, enabled=block["precision"] == "bfloat16"):
            seen = predict(trained.network, images, evaluation=evaluation, batch=1)[0].to(torch.uint8).cpu().numpy()
        top, bottom, left, right = frame.box
        ids = np.full((height, width), IGNORED, dtype=np.uint8)
        above, before = (height - (bottom - top)) // 2, (width - (right - left)) // 2
        ids[above : above + bottom - top, before : before + right - left] = seen[top:bottom, left:right]
        _write(out / mask_name(pair.id), ids)
        yield pair.image


def mask_name(identity: str) -> PurePosixPath:
    """Return the mask's path of an image id, in which a dot need not begin a suffix: VOC's ids have none."""
    path = PurePosixPath(identity)
    return path.with_name(f"{path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name}.png")


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
    if pixels.ndim == 2:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, pixels)
    else:
        with written_whole(path) as partial:
            Image.fromarray(pixels).save(partial, quality=92)

"""A trained network on images of one's own: any size, any file, and outside the project."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cell import chain
from pipeline.commands.export import export_as
from pipeline.data.images import read_mask
from pipeline.data.layout import read_ids
from pipeline.data.open import open_validation
from pipeline.evaluation.cell import restore
from pipeline.models.build import ModelConfig, build_network
from pipeline.params import resolve_table
from pipeline.store import Store
from pipeline.trained.predict import (
    Trained,
    class_ids,
    find_images,
    has_background,
    load_trained,
    overlay,
    predict_folder,
    predict_validation,
)
from pipeline.trained.samples import _framed
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train cell's folder as the store has it, with networks that were never trained."""
    params = project_params()
    (row,) = resolve_table(params, "experiment")
    train = chain(row)[-2]
    made, states = tmp_path_factory.mktemp("cell"), {}
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        network = build_network(ModelConfig(**row["model"]), num_classes=21, representation=True)
        torch.nn.init.zeros_(network.classifier[-1].bias)  # or one class would win everywhere
        states[name] = network.state_dict()
    torch.save({"best": states, "last": states}, made / "weights.pt")
    (made / "cell.json").write_text(json.dumps(train.to_json()))
    return made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    (made / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 64)), ("more/b.png", (33, 51))):
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(made / name)
    (made / "torn.jpg").write_bytes((made / "a.jpg").read_bytes()[:200])
    (made / "notes.txt").write_text("no image")
    return made


def predicted(trained: Trained, images: Path, out: Path) -> dict[Path, str | None]:
    return dict(predict_folder(trained, find_images(images, out), images=images, out=out))


def test_every_image_gets_a_mask_of_its_own_size_and_what_cannot_be_read_is_named(
    folder: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = predicted(load_trained(folder), images, out)
    assert [path.name for path, reason in done.items() if reason is None] == ["a.jpg", "b.png"]
    assert "cannot be read as an image" in str(done[images / "torn.jpg"])
    assert read_mask(out / "masks" / "a.png", 21).shape == (40, 64)
    assert read_mask(out / "masks" / "more" / "b.png", 21).shape == (33, 51)
    with Image.open(out / "overlays" / "more" / "b.jpg") as shown:
        assert shown.size == (51, 33)
    assert not [path for path in out.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 70)])
def test_a_tiny_image_gets_a_mask_of_its_own_size(folder: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    Image.fromarray(np.full((*size, 3), 99, dtype=np.uint8)).save(images / "a.png")
    trained = load_trained(folder)
    sliding = trained.values | {"evaluation": trained.values["evaluation"] | {"mode": "slide", "size": 32}}
    for each in (trained, replace(trained, values=sliding)):
        assert predicted(each, images, out) == {images / "a.png": None}
        assert read_mask(out / "masks" / "a.png", 21).shape == size


def test_links_are_followed_but_not_in_circles(images: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.png").write_bytes((images / "more" / "b.png").read_bytes())
    (elsewhere / "back").symlink_to(images)
    (images / "linked").symlink_to(elsewhere)
    (images / "more" / "itself").symlink_to(images / "more")
    found = [path.relative_to(images).as_posix() for path in find_images(images, tmp_path / "out")]
    assert found == ["a.jpg", "linked/c.png", "more/b.png", "torn.jpg"]


def test_what_was_predicted_is_no_image_of_the_next_run(
    folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    first = list(predicted(load_trained(folder), Path("images"), Path("images/out")))
    assert (images / "out" / "masks" / "a.png").exists()
    (images / "link").symlink_to(images / "out")
    for out in (Path("images/out"), images / "out", Path("../") / images.parent.name / "images" / "out"):
        assert find_images(Path("images"), out) == first
        assert find_images(images, out) == [images.parent / path for path in first]


@pytest.mark.parametrize("out", [".", "images"])
def test_masks_are_not_written_around_the_images(images: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images.parent)
    with pytest.raises(ValueError, match=f"--out {out} holds the images of images; name a folder beside or below it"):
        find_images(Path("images"), Path(out))


def test_the_masks_are_the_networks_own_answer(folder: Path) -> None:
    trained = load_trained(folder)
    image = torch.randn(1, 3, 40, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = trained.network(image).logits
    expected = torch.nn.functional.interpolate(logits, (40, 64), mode="bilinear", align_corners=True).argmax(1)[0]
    assert (class_ids(trained, image) == expected.numpy()).mean() > 0.999  # ties in bfloat16 may fall either way


def test_sliding_windows_are_used_where_the_cell_was_evaluated_so(folder: Path) -> None:
    trained = load_trained(folder)
    values = trained.values | {"evaluation": trained.values["evaluation"] | {"mode": "slide", "size": 32}}
    assert class_ids(replace(trained, values=values), torch.randn(1, 3, 40, 64)).shape == (40, 64)


def test_the_deployed_network_is_the_teacher_and_others_can_be_asked_for(folder: Path) -> None:
    assert load_trained(folder).name == "teacher"
    student = load_trained(folder, network="student", epoch="last")
    state = torch.load(folder / "weights.pt", weights_only=True)["last"]["student"]
    expected = restore(student.values, state, device="cpu").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in student.network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": "third"}, "epoch 'third'; allowed: best, last"),
        ({"network": "uncle"}, "network 'uncle'; this cell has: deployed, student, teacher"),
    ],
)
def test_what_a_cell_does_not_have_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_trained(folder, **changes)


def test_an_empty_folder_and_one_that_is_no_cell_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image there; known are"):
        find_images(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="gone: not there; a folder of images is asked for"):
        find_images(tmp_path / "gone", tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.txt: a file; a folder of images is asked for"):
        find_images(tmp_path / "notes.txt", tmp_path / "out")
    with pytest.raises(ValueError, match=r"no cell\.json there"):
        load_trained(tmp_path)


def test_a_warm_start_is_no_trained_cell(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes((folder / "weights.pt").read_bytes())
    cell = json.loads((folder / "cell.json").read_text())
    (tmp_path / "cell.json").write_text(json.dumps(cell | {"kind": "warm_start"}))
    with pytest.raises(ValueError, match="a warm_start cell; the networks of a train cell are asked for"):
        load_trained(tmp_path)


@pytest.mark.parametrize("size", [(0, 64), (64, -1)])
def test_a_size_without_pixels_is_refused(folder: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="height and width of at least 1 pixel"):
        export_as("program", load_trained(folder), out=tmp_path, size=size, store=Store(tmp_path))


@pytest.mark.parametrize(
    ("size", "framed"), [((40, 60), (164, 244)), ((500, 512), (504, 516)), ((3000, 4000), (379, 504))]
)
def test_a_sample_is_seen_and_small(size: tuple[int, int], framed: tuple[int, int]) -> None:
    """Enlarged to 128 pixels at least, made smaller to 512 at most, and a frame of two."""
    assert _framed(np.zeros((*size, 3), dtype=np.uint8)).shape == (*framed, 3)


def test_a_background_stays_as_it_is_in_an_overlay_and_a_road_does_not() -> None:
    image, ids = np.full((1, 2, 3), 100, dtype=np.uint8), np.array([[0, 1]], dtype=np.uint8)
    assert overlay(image, ids, background=True).tolist() == [[[100, 100, 100], [114, 50, 50]]]
    assert overlay(image, ids, background=False).tolist() == [[[50, 50, 50], [114, 50, 50]]]
    assert has_background({"data": {"layout": "voc"}})
    assert not has_background({"data": {"layout": "cityscapes"}})


def test_images_that_differ_in_their_suffix_get_masks_of_their_own(folder: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, height in (("a.jpg", 40), ("a.png", 32), ("a.jpg.png", 24)):
        Image.fromarray(np.zeros((height, 48, 3), dtype=np.uint8)).save(images / name)
    assert not any(predicted(load_trained(folder), images, out).values())
    masks = {path.name: read_mask(path, 21).shape[0] for path in (out / "masks").iterdir()}
    assert masks == {"a.jpg.png": 40, "a.png.png": 32, "a.jpg.png.png": 24}
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["a.jpg.jpg", "a.jpg.png.jpg", "a.png.jpg"]


def test_an_image_that_no_jpeg_holds_is_named_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name, width in (("a.png", 66_000), ("b.png", 48)):
        Image.fromarray(np.zeros((1, width, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
    done = predicted(load_trained(folder), tmp_path / "images", tmp_path / "out")
    assert [(path.name, reason is None) for path, reason in done.items()] == [("a.png", False), ("b.png", True)]


def test_a_very_large_image_is_predicted_by_windows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, image = load_trained(folder), torch.randn(1, 3, 80, 64)
    monkeypatch.setattr("pipeline.trained.predict.WHOLE_PIXELS", 64 * 64)
    monkeypatch.setattr("pipeline.trained.predict.LARGE_WINDOW", 48)
    block = trained.values["evaluation"]
    sliding = replace(trained, values=trained.values | {"evaluation": block | {"mode": "slide", "size": 48}})
    assert (class_ids(trained, image) == class_ids(sliding, image)).all()
    assert (class_ids(trained, image[..., :40]) != class_ids(sliding, image[..., :40])).any()  # small enough: whole


def test_the_masks_of_val_are_written_as_the_cell_is_measured(folder: Path, data_root: Path, tmp_path: Path) -> None:
    trained = load_trained(folder)
    ids = read_ids(data_root / "partitions" / trained.values["dataset"] / "val.txt")
    samples = open_validation(trained.values, data_root)
    done = predict_validation(trained, samples, out=tmp_path / "val")
    assert [path.stem for path in done] == ids
    right = total = 0
    for index, identity in enumerate(ids):
        mask, found = samples[index][1], read_mask(tmp_path / "val" / f"{identity}.png", 21)
        assert mask is not None
        assert found.shape == mask.shape
        right, total = right + int((found == mask)[mask != 255].sum()), total + int((mask != 255).sum())
    assert 0 < right < total


@pytest.mark.parametrize("exif", [b"no TIFF file at all", b"II*\x00"])
def test_an_image_with_broken_exif_is_left_out_and_the_others_are_not(
    folder: Path, images: Path, tmp_path: Path, exif: bytes
) -> None:
    with Image.open(images / "more" / "b.png") as image:
        image.save(images / "broken.png", exif=exif)
    done = predicted(load_trained(folder), images, tmp_path / "out")
    assert [path.name for path, reason in done.items() if reason is None] == ["a.jpg", "b.png"]
    assert done[images / "broken.png"]

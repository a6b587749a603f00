from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import embedded_shapes
from pipeline.data.embedded import generate

COUNTS = {
    "shapes": {"num_fine": 40, "num_coarse": 40, "num_val": 60},
    "streets": {"num_fine": 24, "num_coarse": 0, "num_val": 24},
}
NUM_CLASSES = {"shapes": 21, "streets": 19}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("embedded")
    for name, counts in COUNTS.items():
        generate(name, folder / name, seed=0, **counts)
    return {name: folder / name for name in COUNTS}


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ids(root: Path, stem: str) -> list[str]:
    return (root / "ImageSets" / "Segmentation" / f"{stem}.txt").read_text().splitlines()


def masks(root: Path, split: str) -> list[np.ndarray]:
    if (root / "gtFine").exists():
        paths = sorted((root / "gtFine" / split).glob("*/*_gtFine_labelTrainIds.png"))
    else:
        paths = [root / "SegmentationClassAug" / f"{image_id}.png" for image_id in ids(root, split)]
    return [np.asarray(Image.open(path)) for path in paths]


@pytest.mark.parametrize("name", COUNTS)
def test_two_generations_are_equal_byte_for_byte(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    generate(name, tmp_path / "again", seed=0, **COUNTS[name])
    assert digest(tmp_path / "again") == digest(roots[name])


@pytest.mark.parametrize("name", COUNTS)
def test_a_scene_stays_the_same_when_the_counts_change(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    generate(name, tmp_path / "few", seed=0, num_fine=3, num_coarse=0, num_val=2)
    few = {path: value for path, value in digest(tmp_path / "few").items() if not path.endswith(".txt")}
    assert few.items() <= digest(roots[name]).items()


def test_another_seed_gives_another_data_set(roots: dict[str, Path], tmp_path: Path) -> None:
    generate("shapes", tmp_path / "other", seed=1, **COUNTS["shapes"])
    same = digest(tmp_path / "other").items() & digest(roots["shapes"]).items()
    assert {path for path, _ in same} == {
        f"ImageSets/Segmentation/{stem}.txt" for stem in ("train", "train_aug", "val")
    }


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_hold_every_class_and_the_ignored_value_and_nothing_else(
    name: str, split: str, roots: dict[str, Path]
) -> None:
    values = np.unique(np.concatenate([mask.ravel() for mask in masks(roots[name], split)]))
    assert values.tolist() == [*range(NUM_CLASSES[name]), 255]


def test_shapes_has_the_layout_of_voc_on_disk(roots: dict[str, Path]) -> None:
    root = roots["shapes"]
    fine, augmented, val = ids(root, "train"), ids(root, "train_aug"), ids(root, "val")
    assert (len(fine), len(augmented), len(val)) == (40, 80, 60)
    assert set(fine) < set(augmented)
    assert not set(val) & set(augmented)
    stems = {
        folder: {path.stem for path in (root / folder).iterdir()} for folder in ("JPEGImages", "SegmentationClassAug")
    }
    assert stems["JPEGImages"] == stems["SegmentationClassAug"] == set(augmented) | set(val)
    assert {path.stem for path in (root / "SegmentationClass").iterdir()} == set(fine) | set(val)
    assert sorted(path.name for path in root.iterdir()) == [
        "ImageSets",
        "JPEGImages",
        "SegmentationClass",
        "SegmentationClassAug",
    ]


def test_streets_has_the_layout_of_cityscapes_on_disk(roots: dict[str, Path]) -> None:
    root = roots["streets"]
    for split in ("train", "val"):
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        assert len(images) == 24
        for path in images:
            city, stem = path.parent.name, path.name.removesuffix("_leftImg8bit.png")
            assert stem.startswith(f"{city}_")
            assert stem.endswith("_000019")
            truth = root / "gtFine" / split / city / f"{stem}_gtFine_labelTrainIds.png"
            with Image.open(path) as image, Image.open(truth) as mask:
                assert (image.size, image.mode) == ((160, 80), "RGB")
                assert (mask.size, mask.mode) == ((160, 80), "L")


def test_masks_of_shapes_are_palette_images_in_the_colours_of_voc(roots: dict[str, Path]) -> None:
    with Image.open(roots["shapes"] / "SegmentationClassAug" / f"{ids(roots['shapes'], 'val')[0]}.png") as mask:
        assert mask.mode == "P"
        palette = np.array(mask.getpalette()).reshape(-1, 3)
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(palette[index].tolist()) for index in published} == published


def test_a_fine_mask_separates_two_classes_by_the_ignored_border(roots: dict[str, Path]) -> None:
    for mask in masks(roots["shapes"], "train"):
        right = (mask[:, :-1] != mask[:, 1:]) & (mask[:, :-1] != 255) & (mask[:, 1:] != 255)
        below = (mask[:-1] != mask[1:]) & (mask[:-1] != 255) & (mask[1:] != 255)
        assert not right.any()
        assert not below.any()


def test_a_coarse_mask_has_no_border_and_differs_from_the_fine_one_of_the_same_scene() -> None:
    shares = []
    for number in range(20):
        fine_pixels, fine = embedded_shapes.scene(np.random.default_rng(number), coarse=False)
        coarse_pixels, coarse = embedded_shapes.scene(np.random.default_rng(number), coarse=True)
        assert (fine_pixels == coarse_pixels).all()
        assert 255 not in coarse
        shares.append((fine != coarse)[fine != 255].mean())
    assert 0.02 < float(np.mean(shares)) < 0.15


def test_a_coarse_mask_misses_small_objects() -> None:
    objects = np.zeros((64, 64), dtype=np.int64)
    objects[10:14, 10:14] = 1
    objects[30:60, 30:60] = 2
    assert set(np.unique(embedded_shapes.coarsen(np.random.default_rng(0), objects))) == {0, 2}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("voc", {}, "'voc': allowed are shapes, streets"),
        ("shapes", {"num_fine": 0}, "num_fine = 0 of shapes: allowed are 1"),
        ("shapes", {"num_coarse": -1}, "num_coarse = -1 of shapes: allowed are 0"),
        ("shapes", {"seed": -1}, "seed = -1 of shapes: allowed are 0"),
        ("streets", {"num_val": 0}, "num_val = 0 of streets: allowed are 1"),
        ("streets", {"num_coarse": 5}, "num_coarse = 5 of streets: allowed is 0"),
    ],
)
def test_a_wrong_parameter_is_named_and_nothing_is_written(
    name: str, change: dict[str, int], message: str, tmp_path: Path
) -> None:
    counts = {"seed": 0, "num_fine": 1, "num_coarse": 0, "num_val": 1} | change
    with pytest.raises(ValueError, match=message):
        generate(name, tmp_path / "data", **counts)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match=f"{tmp_path} is not an empty folder"):
        generate("shapes", tmp_path, seed=0, num_fine=1, num_coarse=0, num_val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate("shapes", tmp_path / "data", seed=0, num_fine=1, num_coarse=0, num_val=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COUNTS)
def test_a_scene_takes_a_few_milliseconds(name: str, tmp_path: Path) -> None:
    started = time.process_time()
    generate(name, tmp_path / "data", seed=0, num_fine=20, num_coarse=0, num_val=20)
    assert time.process_time() - started < 40 * 0.05

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.augment import Augmentation
from pipeline.data.batch import Batch
from pipeline.data.images import write_mask
from pipeline.data.layout import Pair
from pipeline.data.loader import Batches, Loading
from pipeline.data.samples import CACHE_BYTES, Samples

NUM_LABELLED, NUM_UNLABELLED, NUM_CLASSES, CROP = 5, 22, 6, 32


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Images of many sizes; the first are labelled. The red of an image is its number, its mask all one class."""
    root, random = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    pairs = []
    for number in range(NUM_LABELLED + NUM_UNLABELLED):
        height, width = random.integers(20, 80, 2)
        image = np.full((height, width, 3), (number, 100, 200), dtype=np.uint8)
        Image.fromarray(image).save(root / f"{number}.png")
        write_mask(root / f"{number}_mask.png", np.full((height, width), number % NUM_CLASSES, dtype=np.uint8))
        pairs.append(Pair(str(number), root / f"{number}.png", root / f"{number}_mask.png"))
    return pairs


def batches(
    files: list[Pair], *, pad_label: int = 255, cache_bytes: int = CACHE_BYTES, **loading: int | str
) -> Batches:
    values: dict = {"labelled": 4, "unlabelled": 4, "epoch_over": "unlabelled", "seed": 3} | loading
    return Batches(
        Samples(files[:NUM_LABELLED], num_classes=NUM_CLASSES, cache_bytes=cache_bytes),
        Samples(
            files[NUM_LABELLED:],
            num_classes=NUM_CLASSES,
            cache_bytes=cache_bytes,
            masks=loading.get("reads") == "classes",
        ),
        augmentation=Augmentation(
            crop=CROP, scale_min=0.5, scale_max=2.0, scale_law="two_sided", flip_probability=0.5, pad_label=pad_label
        ),
        loading=Loading(**values),
    )


def assert_equal(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=0, atol=0)


def numbers(images: torch.Tensor) -> list[int]:
    """Which files these images are of, by their red."""
    return (images[:, 0] * 58.395 + 123.675).flatten(1).min(1).values.round().int().tolist()


def test_a_batch_is_what_the_engine_expects(files: list[Pair]) -> None:
    batch = batches(files)(0)
    assert batch.labelled.shape == batch.unlabelled.shape == (4, 3, CROP, CROP)
    assert batch.labelled.dtype == batch.unlabelled.dtype == torch.float32
    assert batch.labelled.is_contiguous()
    assert batch.mask.shape == batch.valid.shape == (4, CROP, CROP)
    assert batch.mask.dtype == torch.int64
    assert batch.valid.dtype == batch.presence.dtype == torch.bool
    assert batch.presence.shape == (4, NUM_CLASSES)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_is_the_same_whatever_was_asked_before(files: list[Pair], workers: int) -> None:
    straight = batches(files)
    expected = [straight(step) for step in range(14)]
    jumping = batches(files, workers=workers)
    for step in (12, 3, 3, 4, 5, 13, 0, 1):
        assert_equal(jumping(step), expected[step])
    jumping.close()


def test_a_resumed_run_goes_on_with_the_same_batches(files: list[Pair]) -> None:
    run = batches(files)
    for step in range(7):
        run(step)
    assert_equal(run(7), batches(files)(7))


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_ranks_batches_in_a_row_are_the_single_ranks_batch(files: list[Pair], ranks: int) -> None:
    for step in (0, 9):
        whole = batches(files, reads="classes")(step)
        parts = [batches(files, reads="classes", rank=rank, ranks=ranks)(step) for rank in range(ranks)]
        for field in fields(Batch):
            joined = torch.cat([getattr(part, field.name) for part in parts])
            assert torch.equal(joined, getattr(whole, field.name)), field.name


def test_the_bound_on_kept_images_changes_no_batch(files: list[Pair]) -> None:
    kept, none = batches(files), batches(files, cache_bytes=0)
    for step in range(6):
        assert_equal(kept(step), none(step))


def test_labelled_images_come_from_the_labelled_list_with_their_own_masks(files: list[Pair]) -> None:
    run = batches(files)
    for step in range(5):
        batch = run(step)
        for number, mask in zip(numbers(batch.labelled), batch.mask, strict=True):
            assert number < NUM_LABELLED
            assert set(mask.unique().tolist()) <= {number % NUM_CLASSES, 255}
        assert all(number >= NUM_LABELLED for number in numbers(batch.unlabelled))


def test_an_epoch_shows_as_many_unlabelled_images_as_it_has(files: list[Pair]) -> None:
    run = batches(files)
    seen = [number for step in range(run.steps_per_epoch) for number in numbers(run(step).unlabelled)]
    assert len(seen) == len(set(seen)) == 20


def test_images_are_normalised_and_padding_is_exactly_the_mean_colour(files: list[Pair]) -> None:
    run, padded = batches(files), 0
    for step in range(5):
        batch = run(step)
        outside = ~batch.valid[:, None].expand_as(batch.unlabelled)
        assert (batch.unlabelled[outside] == 0).all()
        inside = batch.unlabelled[:, 1][batch.valid]
        torch.testing.assert_close(inside, torch.full_like(inside, (100 - 116.28) / 57.12))
        padded += int(outside.sum())
        assert ((batch.labelled == 0).all(1) == (batch.mask == 255)).all()
    assert padded > 0


def test_released_padding_is_background_and_takes_part(files: list[Pair]) -> None:
    run, ignored = batches(files, pad_label=0), batches(files)
    for step in range(5):
        batch = run(step)
        assert batch.valid.all()
        torch.testing.assert_close(batch.mask, ignored(step).mask.where(ignored(step).mask != 255, 0))


def test_presence_tells_the_classes_of_unlabelled_images_only_on_request(files: list[Pair]) -> None:
    told, untold = batches(files, reads="classes")(2), batches(files)(2)
    assert told.presence.float().argmax(1).tolist() == [number % NUM_CLASSES for number in numbers(told.unlabelled)]
    assert (told.presence.sum(1) == 1).all()
    assert not untold.presence.any()


@pytest.mark.parametrize("ranks", [1, 2])
def test_where_nothing_unlabelled_is_read_a_batch_has_none_and_is_else_the_same(files: list[Pair], ranks: int) -> None:
    gone = [*files[:NUM_LABELLED], *(Pair(pair.id, Path("nowhere"), None) for pair in files[NUM_LABELLED:])]
    for rank in range(ranks):
        half, whole = batches(gone, reads="nothing", rank=rank, ranks=ranks), batches(files, rank=rank, ranks=ranks)
        assert half.steps_per_epoch == whole.steps_per_epoch
        for step in (0, 6):
            assert half(step).unlabelled.shape == (0, 3, CROP, CROP)
            assert half(step).valid.shape == (0, CROP, CROP)
            assert half(step).presence.shape == (0, NUM_CLASSES)
            assert torch.equal(half(step).labelled, whole(step).labelled)
            assert torch.equal(half(step).mask, whole(step).mask)


def test_presence_is_unknown_where_an_image_has_no_mask(files: list[Pair]) -> None:
    bare = [Pair(pair.id, pair.image, None) for pair in files[NUM_LABELLED:]]
    assert not batches([*files[:NUM_LABELLED], *bare], reads="classes")(0).presence.any()


def test_a_supervised_run_sees_the_same_labelled_images_and_no_others(files: list[Pair]) -> None:
    semi, supervised = batches(files)(4), batches(files, unlabelled=0)(4)
    assert supervised.unlabelled.shape == (0, 3, CROP, CROP)
    assert supervised.valid.shape == (0, CROP, CROP)
    assert torch.equal(supervised.labelled, semi.labelled)
    assert torch.equal(supervised.mask, semi.mask)


def test_views_of_one_image_differ_from_step_to_step(files: list[Pair]) -> None:
    run = batches([*files[:1] * NUM_LABELLED, *files[NUM_LABELLED:]])
    assert any((run(step).mask != run(step + 1).mask).any() for step in range(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(files: list[Pair], tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.png").write_bytes(files[0].image.read_bytes()[:40])
    damaged = [Pair("bad", tmp_path / "bad.png", files[0].mask)] * NUM_LABELLED
    run = batches([*damaged, *files[NUM_LABELLED:]], workers=workers)
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image"):
        run(0)
    run.close()


def test_a_labelled_image_without_mask_is_named(files: list[Pair]) -> None:
    bare = [Pair("x", files[0].image, None)] * NUM_LABELLED
    with pytest.raises(ValueError, match=r"labelled image .*0\.png has no mask"):
        batches([*bare, *files[NUM_LABELLED:]])(0)


def test_batches_that_the_ranks_cannot_share_are_refused(files: list[Pair]) -> None:
    with pytest.raises(ValueError, match="both must be multiples of the 3 ranks"):
        batches(files, ranks=3)


def test_files_are_decoded_once_within_the_bound_and_memory_stays_within_it(
    files: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = Samples._decode

    def noted(self: Samples, pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
        decoded.append(pair.id)
        return decode(self, pair)

    monkeypatch.setattr(Samples, "_decode", noted)
    samples = Samples(files, num_classes=NUM_CLASSES)
    for _ in range(3):
        for index in range(len(files)):
            samples[index]
    assert sorted(decoded) == sorted(pair.id for pair in files)
    bound = 20_000
    bounded = Samples(files, num_classes=NUM_CLASSES, cache_bytes=bound)
    for index in range(len(files)):
        bounded[index]
    kept = sum(array.nbytes for pair in bounded._kept.values() for array in pair if array is not None)
    assert 0 < kept <= bound

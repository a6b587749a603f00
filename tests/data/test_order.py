from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.order import Order


def order(**changes: int | str) -> Order:
    values: dict = {"seed": 0, "num_labelled": 5, "num_unlabelled": 23, "labelled": 4, "unlabelled": 4}
    return Order(**(values | {"epoch_over": "unlabelled"} | changes))


def epoch_of(counts: Order, epoch: int, which: str) -> np.ndarray:
    steps = range(epoch * counts.steps_per_epoch, (epoch + 1) * counts.steps_per_epoch)
    at = counts.labelled_at if which == "labelled" else counts.unlabelled_at
    return np.concatenate([at(step) for step in steps])


PUBLISHED_STEPS = [
    *((10582 - labelled, steps) for labelled, steps in [(92, 655), (183, 650), (366, 638), (732, 615), (1464, 570)]),
    *((10582 - labelled, steps) for labelled, steps in [(662, 620), (1323, 578), (2646, 496), (5291, 330)]),
    *((2975 - labelled, steps) for labelled, steps in [(186, 174), (372, 163), (744, 139), (1488, 93)]),
]


@pytest.mark.parametrize(("num_unlabelled", "released"), PUBLISHED_STEPS)
def test_an_epoch_is_one_pass_over_the_unlabelled_list_drop_last(num_unlabelled: int, released: int) -> None:
    steps = order(num_labelled=92, num_unlabelled=num_unlabelled, labelled=16, unlabelled=16).steps_per_epoch
    assert steps == num_unlabelled // 16
    assert steps in (released, released - 1)  # the released sampler repeats images to fill its 4 or 8 ranks


@pytest.mark.parametrize(
    ("num_labelled", "total"), [(92, 480), (183, 960), (366, 1840), (732, 3680), (1464, 7360), (662, 3360)]
)
def test_an_epoch_over_the_labelled_list_has_the_released_suponly_length(num_labelled: int, total: int) -> None:
    published = order(num_labelled=num_labelled, num_unlabelled=9000, labelled=16, unlabelled=0, epoch_over="labelled")
    assert published.steps_per_epoch * 80 == total


def test_an_epoch_shows_each_unlabelled_image_at_most_once_and_drops_less_than_a_step() -> None:
    for epoch in range(3):
        seen = epoch_of(order(), epoch, "unlabelled")
        assert len(set(seen)) == len(seen) == 20


def test_epochs_differ_in_order_and_in_what_they_drop() -> None:
    first, second = (epoch_of(order(num_unlabelled=200), epoch, "unlabelled") for epoch in (0, 1))
    assert (first != second).any()
    dropped = {tuple(sorted(set(range(23)) - set(epoch_of(order(), epoch, "unlabelled")))) for epoch in range(8)}
    assert len(dropped) > 1


def test_the_labelled_list_is_oversampled_to_the_length_of_the_unlabelled_one() -> None:
    times = np.bincount(np.concatenate([epoch_of(order(), epoch, "labelled") for epoch in range(30)]), minlength=5)
    assert (times > 0).all()
    pool = np.bincount(epoch_of(order(num_unlabelled=24), 0, "labelled"), minlength=5)
    assert pool.max() <= 5  # tiled ceil(24 / 5) times
    assert pool.sum() == 24


def test_the_oversampled_pool_stays_the_same_for_the_whole_run() -> None:
    pools = [np.bincount(epoch_of(order(num_unlabelled=24), epoch, "labelled"), minlength=5) for epoch in range(3)]
    np.testing.assert_array_equal(pools[0], pools[1])
    np.testing.assert_array_equal(pools[0], pools[2])


def test_a_labelled_list_longer_than_the_unlabelled_loses_the_same_images_for_good() -> None:
    longer = order(num_labelled=30, num_unlabelled=28)
    seen = {frozenset(epoch_of(longer, epoch, "labelled").tolist()) for epoch in range(3)}
    assert len(seen) == 1
    assert len(seen.pop()) == 28


def test_which_labelled_images_are_lost_is_drawn_by_seed() -> None:
    kept = {
        frozenset(epoch_of(order(num_labelled=30, num_unlabelled=28, seed=seed), 0, "labelled").tolist())
        for seed in range(6)
    }
    assert len(kept) > 1


def test_an_epoch_over_the_labelled_list_shows_every_image_and_fills_the_last_step_up() -> None:
    supervised = order(num_labelled=10, epoch_over="labelled")
    for epoch in range(3):
        times = np.bincount(epoch_of(supervised, epoch, "labelled"), minlength=10)
        assert supervised.steps_per_epoch == 3
        assert times.min() == 1
        assert times.sum() == 12


def test_a_list_shorter_than_a_step_is_repeated_within_it() -> None:
    supervised = order(num_labelled=3, labelled=8, epoch_over="labelled")
    assert np.bincount(supervised.labelled_at(0)).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_a_supervised_run_of_equal_steps_loads_no_unlabelled_image() -> None:
    semi, supervised = order(), order(unlabelled=0)
    assert supervised.steps_per_epoch == semi.steps_per_epoch
    assert len(supervised.unlabelled_at(3)) == 0
    np.testing.assert_array_equal(supervised.labelled_at(17), semi.labelled_at(17))


def test_another_seed_is_another_order() -> None:
    assert (order(num_unlabelled=99).unlabelled_at(0) != order(num_unlabelled=99, seed=1).unlabelled_at(0)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_unlabelled": 3}, "unlabelled list has 3 images, fewer than the 4 of one step"),
        ({"num_labelled": 0}, "labelled list is empty"),
        ({"labelled": 0}, "allowed are 1 and more labelled"),
        ({"unlabelled": -1}, "0 and more unlabelled"),
        ({"epoch_over": "both"}, "epoch_over is 'both'; allowed are"),
    ],
)
def test_impossible_orders_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order(**change)

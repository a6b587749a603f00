"""UniMatch V2: FixMatch with two views where teacher and dropout are switched off, and complementary channels."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.methods import unimatch_v2
from pipeline.methods.unimatch_v2 import drop_apart, dropped_pairs
from pipeline.training.weak_to_strong import Weak
from tests.methods import official


@pytest.mark.parametrize("resolution", ["full", "network"])
def test_without_average_and_dropout_it_is_fixmatch_with_two_views(tiny: Any, resolution: str) -> None:
    """In a network without batch statistics, that is: those are the one difference left."""
    shared = {"pointwise": True, "resolution": resolution}
    fixmatch = tiny.make_method("unimatch", num_strong_views=2, feature_perturbation=False, **shared)
    method = tiny.make_method("unimatch_v2", decay=0.0, dropout_share=0.0, **shared)
    method.student.load_state_dict(fixmatch.student.state_dict())
    method.begin()
    assert tiny.train(method, steps=3) == tiny.train(fixmatch, steps=3)


def test_twins_see_complementary_channels_doubled_and_the_rest_see_all() -> None:
    torch.manual_seed(0)
    features = torch.rand(6, 40, 3, 3) + 1
    apart = torch.tensor([True, False, True])
    first, second = drop_apart(features, apart).chunk(2)
    untouched = features.chunk(2)
    for pair, is_apart in enumerate(apart.tolist()):
        if not is_apart:
            assert torch.equal(first[pair], untouched[0][pair])
            assert torch.equal(second[pair], untouched[1][pair])
            continue
        seen = (first[pair] != 0).flatten(1).all(dim=1)
        unseen = (second[pair] == 0).flatten(1).all(dim=1)
        assert torch.equal(seen, unseen)
        assert 5 < seen.sum() < 35
        torch.testing.assert_close(first[pair] + second[pair] * 0, 2 * untouched[0][pair] * seen[:, None, None])
        torch.testing.assert_close(second[pair], 2 * untouched[1][pair] * ~seen[:, None, None])


@pytest.mark.parametrize(
    ("num", "share", "expected"),
    [(8, 0.5, 4), (7, 0.5, 4), (1, 0.5, 1), (4, 1.0, 4), (4, 0.25, 1), (5, 0.8, 4), (10, 0.9, 9)],
)
def test_the_share_of_pairs_apart_is_exact(num: int, share: float, expected: int) -> None:
    torch.manual_seed(0)
    chosen = [dropped_pairs(torch.empty(2 * num, 3, 2, 2), share) for _ in range(30)]
    assert {int(apart.sum()) for apart in chosen} == {expected}
    if expected < num:
        assert torch.stack(chosen).any(dim=0).all()


def test_both_maps_the_decoder_reads_drop_the_same_pairs(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny.make_method("unimatch_v2")
    empty: list[list[bool]] = []
    monkeypatch.setattr(method.student, "features", lambda images: [torch.ones(len(images), 50, 8, 8)] * 4)

    def fuse(features: list[Tensor]) -> Tensor:
        empty.extend((stage == 0).flatten(2).all(dim=2).any(dim=1).tolist() for stage in (features[0], features[3]))
        return torch.zeros(4, 32, 8, 8)

    monkeypatch.setattr(method.student, "fuse", fuse)
    torch.manual_seed(0)
    method.predict_pair(tiny.make_batch(num=4).unlabelled)
    assert empty[0] == empty[1]
    assert empty[0] in ([True, False, True, False], [False, True, False, True])


def test_every_pixel_keeps_its_label_and_confidence_through_the_mix(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unimatch_v2, "unimatch_view", lambda images: images)
    method = tiny.make_method("unimatch_v2", box_probability=1.0)
    index = torch.arange(4)[:, None, None].expand(-1, 32, 32)
    torch.manual_seed(0)
    for _ in range(5):
        view, target = method.strong(index[:, None].expand(-1, 3, -1, -1).float(), Weak(index, index / 10))
        assert torch.equal(target.labels, view[:, 0].long())
        torch.testing.assert_close(target.confidence, view[:, 0] / 10)
        assert ((target.labels == index) | (target.labels == 3 - index)).all()


def test_labels_come_from_the_teacher_in_eval_mode(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = tiny.make_method("unimatch_v2"), tiny.make_batch()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    seen: list[Weak] = []
    strong = method.strong

    def listen(images: Tensor, labels: Weak) -> tuple[Tensor, Weak]:
        seen.append(labels)
        return strong(images, labels)

    monkeypatch.setattr(method, "strong", listen)
    tiny.losses(method, batch)
    logits = method.teacher.net.eval()(batch.unlabelled).logits
    assert torch.equal(seen[0].labels, torch.where(batch.valid[:, ::4, ::4], logits.argmax(dim=1), 255))
    torch.testing.assert_close(seen[0].confidence, logits.softmax(dim=1).amax(dim=1))


def test_padding_never_changes_a_loss(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unimatch_v2, "unimatch_view", lambda images: images)
    batch = tiny.make_batch()
    garbage = torch.where(batch.valid[:, None], batch.unlabelled, 50 * torch.randn_like(batch.unlabelled))
    method = tiny.make_method("unimatch_v2", pointwise=True)
    clean = tiny.losses(method, batch)
    dirty = tiny.losses(method, dataclasses.replace(batch, unlabelled=garbage))
    for key, value in clean.items():
        torch.testing.assert_close(dirty[key], value)


def test_the_authors_settings_are_whole_and_allowed() -> None:
    assert dataclasses.asdict(unimatch_v2.Parameters(**official.UNIMATCH_V2)) == official.UNIMATCH_V2


@pytest.mark.parametrize(
    ("name_of", "value", "allowed"),
    [("dropout_share", 1.5, "0 to 1"), ("decay", 1.0, "below 1"), ("box_aspect", [0.3], "low <= high")],
)
def test_values_out_of_range_are_refused_by_name(tiny: Any, name_of: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name_of} is .*allowed: .*{allowed}"):
        tiny.make_method("unimatch_v2", **{name_of: value})

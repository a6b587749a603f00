"""Ways of executing the same step: blocks computed again, several batches a step, compiled parts."""

from __future__ import annotations

import copy
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.build import ModelConfig, build_network
from pipeline.models.segnet import SegNet
from pipeline.params import resolve_table
from pipeline.training.engine import backward
from pipeline.training.execution import blocks_of, compile_parts, recompute_blocks
from pipeline.training.setting import check_training, make_criterion
from tests.params import project_params

TINY: dict[str, Any] = {
    "backbone": "resnet",
    "encoder": {"stem": "deep", "blocks": [1, 2, 2, 1], "width": 8, "expansion": 2, "multi_grid": [1]},
    "output_stride": 16,
    "aspp_rates": [2, 4],
    "decoder_channels": 16,
    "low_level_channels": 8,
    "representation_channels": 8,
    "auxiliary": False,
    "dropout": 0.0,
    "weights": None,
}


def network(**changed: Any) -> SegNet:
    torch.manual_seed(0)
    return build_network(ModelConfig(**(TINY | changed)), num_classes=5).train()


def step(net: SegNet) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """One forward and backward: loss, gradients, state afterwards."""
    torch.manual_seed(1)
    loss = net(torch.randn(2, 3, 33, 33)).logits.square().mean()
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters() if p.grad is not None], net.state_dict()


def saved_bytes(net: SegNet) -> int:
    """How much a forward keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net.encoder(torch.randn(2, 3, 65, 65))
    assert output
    return sum(size for pointer, size in sizes.items() if pointer not in parameters)


def test_recomputed_blocks_give_the_same_bits_and_follow_statistics_once() -> None:
    plain, again = network(), network()
    recompute_blocks(again)
    (loss, gradients, state), (other_loss, other_gradients, other_state) = step(plain), step(again)
    assert torch.equal(loss, other_loss)
    assert len(gradients) == len(other_gradients)
    assert all(map(torch.equal, gradients, other_gradients))
    assert state.keys() == other_state.keys()
    assert all(torch.equal(state[name], other_state[name]) for name in state)
    assert state["encoder.layer2.0.bn1.num_batches_tracked"] == 1


def test_recomputed_blocks_keep_less_for_the_backward_pass() -> None:
    plain, again = network(), network()
    recompute_blocks(again)
    assert saved_bytes(again) < 0.65 * saved_bytes(plain)


def test_blocks_are_bottlenecks_and_inverted_residuals() -> None:
    assert len(blocks_of(network().encoder)) == 6
    pytest.importorskip("timm")
    lite = network(backbone="timm", encoder={"name": "tf_efficientnet_lite0", "frozen": []})
    assert len(blocks_of(lite.encoder)) == 16  # 1 + 2 + 2 + 3 + 3 + 4 + 1


def test_a_network_that_does_not_learn_is_not_computed_again() -> None:
    net = network()
    teacher = copy.deepcopy(net)
    recompute_blocks(net)
    assert all("forward" not in vars(block) for block in blocks_of(teacher.encoder))


@pytest.mark.parametrize(("parts", "kept"), [(1, 9), (2, 5), (4, 3)])
def test_of_each_part_ohem_keeps_its_share(parts: int, kept: int) -> None:
    (row,) = resolve_table(project_params(), "experiment")
    assert make_criterion(row["training"] | {"accumulate": parts, "ohem_min_kept": 9}).ohem_min_kept == kept


@pytest.mark.parametrize("num", [1, 2, 4])
def test_parts_are_the_batch_in_order(num: int) -> None:
    whole = Batch(*(torch.arange(4).float().reshape(4, 1) + shift for shift in (0, 10, 20, 30, 40)))
    parts = whole.parts(num)
    assert len(parts) == num
    for name in ("labelled", "mask", "unlabelled", "valid", "presence"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_a_number_of_parts_that_does_not_divide_the_batch_is_refused() -> None:
    (row,) = resolve_table(project_params(), "experiment")
    with pytest.raises(ValueError, match=r"accumulate: 3; a divisor of labelled_batch 2 is allowed"):
        check_training(row["training"] | {"accumulate": 3}, "here")
    with pytest.raises(ValueError, match=r"here\.compile: True; false, with recompute, is allowed"):
        check_training(row["training"] | {"recompute": True, "compile": True}, "here")
    with pytest.raises(ValueError, match=r"recompute: 'yes'; allowed: False, True"):
        check_training(row["training"] | {"recompute": "yes"}, "here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile's own looking around
def test_compiled_parts_give_the_same_loss_and_gradients() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs g++")
    plain, compiled = network(), network()
    compile_parts(compiled)
    (loss, gradients, state), (other_loss, other_gradients, other_state) = step(plain), step(compiled)
    torch.testing.assert_close(loss, other_loss, rtol=1e-4, atol=1e-5)
    for mine, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)
    assert state.keys() == other_state.keys()


class Mean(torch.nn.Module):
    """A method whose loss is a mean over images, as most are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def losses(self, batch: Batch, _progress: object) -> dict[str, Tensor]:
        squares = (batch.labelled * self.weight).square().sum(dim=1)
        return {"supervised": squares.mean(), "unsupervised": batch.unlabelled.matmul(self.weight).mean()}


def accumulated(num: int) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    images, empty = torch.randn(8, 3), torch.zeros(8, 3)
    method: Any = Mean()
    run: Any = SimpleNamespace(training={"accumulate": num, "precision": "float32"}, progress=None)
    parts = Batch(images, empty, images.flip(0), empty, empty).parts(num)
    found = [backward(method, part, run=run) for part in parts]
    losses = {name: torch.stack([each[name] for each in found]).sum() for name in found[0]}
    return losses, method.weight.grad


def test_parts_of_a_batch_add_up_to_its_losses_and_gradient() -> None:
    (losses, gradient), (other_losses, other_gradient) = accumulated(1), accumulated(4)
    assert losses.keys() == other_losses.keys()
    for name in losses:
        torch.testing.assert_close(losses[name], other_losses[name])
    torch.testing.assert_close(gradient, other_gradient)

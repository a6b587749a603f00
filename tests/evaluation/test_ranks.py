"""A real network's figures do not depend on how images are batched or on who evaluates them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import write_mask

PROJECT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from pipeline.data.layout import Pair
from pipeline.data.samples import Samples
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.predict import Evaluation
from pipeline.models.build import ModelConfig, build_network
from pipeline.params import resolve_table
from tests.params import project_params

root, rank, ranks, *batches = Path(sys.argv[1]), *map(int, sys.argv[2:])
if ranks > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=ranks)
row, *_ = resolve_table(project_params(), "table_1")
torch.manual_seed(0)
network = build_network(ModelConfig(**row["model"]), num_classes=21)
with torch.no_grad():
    for _ in range(20):  # statistics of its own, so that it predicts more than one class
        network(torch.randn(4, 3, 64, 64))
samples = Samples([Pair(str(i), root / f"{i}.png", root / f"{i}_mask.png") for i in range(7)], num_classes=21)
for batch_images in batches:
    for mode, size in (("whole", None), ("centre", 48), ("slide", 32)):
        evaluation = Evaluation(mode=mode, size=size)
        print(json.dumps(evaluate({"a": network}, samples, evaluation=evaluation, device="cpu",
                                  batch_images=batch_images)["a"]))
if ranks > 1:
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_batches_and_real_ranks_report_the_figures_of_one_image_at_a_time(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(7):
        size = ((40, 60), (60, 40), (51, 37))[number % 3]
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        write_mask(tmp_path / f"{number}_mask.png", random.integers(0, 21, size, dtype=np.uint8))

    def start(rank: int, ranks: int, *batches: int) -> subprocess.Popen[str]:
        words = map(str, (rank, ranks, *batches))
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), *words]
        return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)

    started = [start(0, 1, 1, 3, 64), *(start(rank, 3, 2) for rank in range(3))]
    alone, *shared = [
        [json.loads(line) for line in process.communicate(timeout=240)[0].splitlines()] for process in started
    ]
    expected = alone[:3]
    assert all(figures["padding_ignored"]["miou"] > 0 for figures in expected)
    assert len({figures["padding_ignored"]["miou"] for figures in expected}) == 3
    assert alone == 3 * expected
    assert shared == 3 * [expected]

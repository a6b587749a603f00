from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import write_mask

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from pipeline.data.layout import Pair
from pipeline.data.samples import Samples
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.predict import Evaluation
from pipeline.models.segnet import Output

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 5, stride=4, padding=2)

    def predict(self, images):
        return self.conv(images)

root, rank, ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if ranks > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=ranks)
files = [Pair(str(i), root / f"{i}.png", root / f"{i}_mask.png") for i in range(5)]
samples = Samples(files, num_classes=4)
print(json.dumps(evaluate({"a": Network()}, samples, evaluation=Evaluation(mode="centre", size=28), device="cpu",
                          batch_images=2)))
if ranks > 1:
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_real_ranks_report_the_figures_of_one(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(5):
        size = tuple(random.integers(16, 40, 2))
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        write_mask(tmp_path / f"{number}_mask.png", random.integers(0, 4, size, dtype=np.uint8))

    def start(rank: int, ranks: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(rank), str(ranks)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)

    alone = start(0, 1)
    both = [start(rank, 2) for rank in range(2)]
    figures = [json.loads(process.communicate(timeout=120)[0]) for process in [alone, *both]]
    assert figures[0] == figures[1] == figures[2]

"""What trainings of scale `embedded` cost beside an older commit's: `python -m tests.benchmarks.before [COMMIT]`.

Each runs whole, warm start and training with all its validations, in a process of its own, today's code and the older
commit's in turns, one thread. Needs the data of scale `embedded` (`dvc repro partitions@voc_blender`). The default
commit is the foundation, whose whole grid was timed on another machine.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.report import Figure, figures, write

PROJECT = Path(__file__).parents[2]
FOUNDATION = "7fa1694"
METHODS, ROUNDS = ("suponly", "cutmix", "u2pl"), 2
TRAIN = """
import sys, tempfile, time
from pathlib import Path
import torch
from pipeline.cell import chain
from pipeline.params import load_params, resolve_table
from pipeline.training.engine import train_cell
torch.set_num_threads(1)
params = load_params(Path("params.yaml")) | {"scale": "embedded", "method": sys.argv[1]}
*warm, train, _ = chain(*resolve_table(params, "experiment"))
with tempfile.TemporaryDirectory() as folder:
    done, began = [], time.process_time()
    for cell in [*warm, train]:
        work = Path(folder) / cell.key
        work.mkdir()
        train_cell(cell, work, data_root=Path(sys.argv[2]), upstream=list(done), stop=lambda: False)
        done.append(work)
print(time.process_time() - began)
"""


def main() -> None:
    """Measure and write the section."""
    commit, seconds = (sys.argv[1:] or [FOUNDATION])[0], dict[tuple[str, str], list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        older = Path(folder) / "older"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", older, commit], cwd=PROJECT, check=True)
        try:
            for _ in range(ROUNDS):
                for method in METHODS:
                    for name, code in (("ours", PROJECT), ("older", older)):
                        seconds.setdefault((name, method), []).append(trained(code, method))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", older], cwd=PROJECT, check=True)
    median = {which: statistics.median(taken) for which, taken in seconds.items()}
    lines = [Figure(method, median["ours", method], median["older", method], unit="s") for method in METHODS]
    write("before", f"A training of scale `embedded` beside that of commit {commit}", figures(lines))


def trained(code: Path, method: str) -> float:
    """Return the processor seconds that the code of a checkout takes to train one cell from nothing."""
    command = [sys.executable, "-c", TRAIN, method, str(PROJECT / "data" / "embedded")]
    told = subprocess.run(command, cwd=code, capture_output=True, text=True, check=True).stdout
    return float(told.split()[-1])


if __name__ == "__main__":
    main()

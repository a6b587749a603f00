"""What a step costs beside its bare networks, counted at the paper's sizes: `python -m tests.benchmarks.step`.

U2PL on 4 + 4 and on 16 + 16 images of 513 x 513, 21 classes, queues of 50,000 and 30,000: what its own part (losses,
mixing, entropy, percentile, masks, queues, contrast, average, optimiser) adds to the forward and backward passes of
ResNet-101. Then every method on 4 + 4. A pass is one forward and backward of one network on the labelled images, so
a forward alone is a third. CCT's auxiliary decoders and GCT's flaw detector count as what the method adds.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pipeline.params import load_params, resolve_table
from pipeline.training.cost import unit_flop
from tests.benchmarks.counting import Counting, Tally, count, is_network
from tests.benchmarks.report import Figure, figures, table, write

PARAMS = Path(__file__).parents[2] / "params.yaml"
SHARE = 0.05
"""What U2PL may add to the networks' bytes and operations."""


def main() -> None:
    """Count and write the section."""
    body = ""
    for num in (4, 16):
        body += f"U2PL, {num} + {num} images, float32, everything but the networks beside the networks:\n\n"
        body += figures(beside_the_networks(count(paper_row("u2pl", num)))) + "\n"
    body += "Where these bytes go (4 + 4), by the file that asks for them:\n\n" + by_file(u2pl_counted())
    body += "\nEvery method, 4 + 4 images, as shares of its networks' passes:\n\n" + by_method()
    write("step", "A step beside its bare networks, counted", body)


def paper_row(method: str, num: int) -> dict[str, Any]:
    """Return a method's row with `num` labelled and as many unlabelled images."""
    params = load_params(PARAMS) | {"scale": "paper", "method": method}
    (row,) = resolve_table(params, "experiment")
    return row | {"training": row["training"] | {"labelled_batch": num, "unlabelled_batch": num}}


@cache
def u2pl_counted() -> Counting:
    """Return U2PL's step on 4 + 4 images."""
    return count(paper_row("u2pl", 4))


def split(counting: Counting) -> tuple[Tally, Tally]:
    """Return what the networks cost, and everything else."""
    return counting.total(is_network), counting.total(lambda file: not is_network(file))


def beside_the_networks(counting: Counting) -> list[Figure]:
    """Return the figures of everything else, with the networks' as their baseline."""
    networks, rest = split(counting)
    aim = f"<= {SHARE}"
    return [
        Figure("bytes moved", rest.moved_bytes / 1e9, networks.moved_bytes / 1e9, aim=aim, unit="GB"),
        Figure("operations", rest.operations / 1e9, networks.operations / 1e9, aim=aim, unit="G"),
        Figure("launches", rest.launches, networks.launches),
        Figure(
            "launches but the optimiser's", rest.launches - counting.by_file["torch/optim"].launches, networks.launches
        ),
    ]


def by_file(counting: Counting) -> str:
    """Return the table of bytes by file, largest first."""
    networks = split(counting)[0]
    ours = [(file, tally) for file, tally in counting.by_file.items() if not is_network(file)]
    ours.sort(key=lambda pair: -pair[1].moved_bytes)
    rows = [
        [
            file,
            f"{tally.moved_bytes / 1e9:.2f} GB",
            f"{100 * tally.moved_bytes / networks.moved_bytes:.2f}",
            tally.launches,
        ]
        for file, tally in ours
    ]
    return table(["file", "bytes", "% of the networks'", "launches"], rows)


def by_method() -> str:
    """Return the table of all methods."""
    rows = []
    for method in sorted(path.stem for path in (PARAMS.parent / "pipeline" / "methods").glob("[a-z]*.py")):
        row = paper_row(method, 4)
        networks, rest = split(count(row))
        passes = networks.operations / unit_flop(row)
        shares = [getattr(rest, name) / getattr(networks, name) for name in ("moved_bytes", "operations")]
        sizes = [f"{passes:.2f}", f"{networks.operations / 1e12:.1f}", f"{networks.moved_bytes / 1e9:.0f}"]
        rows.append([method, *sizes, *(f"{100 * share:.2f}" for share in shares), networks.launches, rest.launches])
    head = ["method", "passes", "TFLOP", "GB", "else: % of GB", "% of operations", "launches", "else"]
    return table(head, rows)


if __name__ == "__main__":
    main()

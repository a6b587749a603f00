"""Which stages of a `dvc repro` will run: asked of DVC itself, without its locks, while one of its stages runs.

`dvc repro --dry` does not carry staleness downstream, and DVC's own `status` wants the locks that the running
`dvc repro` holds. So this walks DVC's graph with the lock-free parts (`changed_stage`, `dep.status`, `out.status`) and
propagates. It costs 70 MB and a second or two, and is therefore run in a process of its own that ends.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from argparse import Namespace

    from dvc.repo import Repo
    from dvc.stage import Stage

ABSENT = ("deleted", "not in cache")
"""What DVC says of outputs that are not there."""


def start_plan(root: Path, stage: str) -> subprocess.Popen[str]:
    """Begin to ask DVC which stages the running `dvc` command has still to run: a second or two."""
    command = [sys.executable, "-m", "pipeline.plan", str(root), stage]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)


def read_plan(plan: subprocess.Popen[str], stage: str) -> list[str]:
    """Return the stages that are still to run, in DVC's order, `stage` among them. Raises RuntimeError."""
    said, wrong = plan.communicate()
    if plan.returncode != 0:
        raise RuntimeError(f"the plan failed: {wrong.strip()[-2000:]}")
    return [name.split(":")[-1] for name in [*json.loads(said), stage]]


def stale_stages(root: Path, command: list[str] | None, *, fallback: str | None = None) -> dict[str, list[str]]:
    """Return the stages that the given `dvc` command line will run, in DVC's order, each with the reasons.

    `command` is the argv of `dvc repro` or `dvc exp run` (None: all stages); where it names no readable request, as
    under a queue worker, the plan is that of the one stage `fallback`.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        options = parse_command(command) if command is not None else None
        if command is not None and options is None and fallback is not None:
            stages = _ordered(repo, [fallback], options={})
        else:
            stages = _ordered(repo, options.targets if options else [], options=vars(options) if options else {})
        fetched = any(getattr(options, name, False) for name in ("allow_missing", "pull"))
        return _propagate(repo, stages, single=bool(options and options.single_item), fetched=fetched)


def parse_command(command: list[str]) -> Namespace | None:
    """Read a `dvc` command line with DVC's own parser; None where it is not a request to reproduce stages."""
    from dvc.cli import parse_args
    from dvc.cli.parser import DvcParserError

    words = [word for word in command if word]
    start = next((index for index, word in enumerate(words) if Path(word).name in ("dvc", "__main__.py")), None)
    if start is None:
        return None
    try:
        options = parse_args(words[start + 1 :])
    except (DvcParserError, SystemExit):
        return None
    return options if hasattr(options, "single_item") else None


def dvc_command() -> tuple[list[str], str] | None:
    """Return the argv of the nearest `dvc` process above this one and the folder it runs in, or None."""
    for ancestor in psutil.Process().parents():
        try:
            words = ancestor.cmdline()
            if any(Path(word).name == "dvc" for word in words[:3]) or words[1:3] == ["-m", "dvc"]:
                return ["dvc", *words[3:]] if words[1:3] == ["-m", "dvc"] else words, ancestor.cwd()
        except psutil.Error:
            continue
    return None


def _ordered(repo: Repo, targets: list[str], *, options: dict[str, Any]) -> list[Stage]:
    """Return the stages of the targets in DVC's order of execution."""
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    if not targets and not options.get("all_pipelines"):
        targets = ["dvc.yaml"]
    stages = collect_stages(repo, targets, recursive=options.get("recursive", False), glob=options.get("glob", False))
    graph = get_active_graph(repo.index.graph)  # after the collecting, which may read dvc.yaml anew
    if options.get("all_pipelines"):
        return plan_repro(graph)
    if options.get("single_item"):
        return stages
    return plan_repro(
        graph, stages, pipeline=options.get("pipeline", False), downstream=options.get("downstream", False)
    )


def _propagate(repo: Repo, stages: list[Stage], *, single: bool, fetched: bool) -> dict[str, list[str]]:
    """Return the stale stages with their reasons: changed themselves, or behind one that is.

    `fetched`: DVC does without what is only missing, or pulls it.
    """
    from dvc.repo.reproduce import get_active_graph

    graph, stale = get_active_graph(repo.index.graph), {}  # a frozen stage follows none
    for stage in stages:
        reasons = _changes(stage, but=ABSENT if fetched else ())
        if not single:
            reasons += [
                f"after {before.addressing}" for before in graph.successors(stage) if before.addressing in stale
            ]
        if reasons:
            stale[stage.addressing] = reasons
    return stale


def _changes(stage: Stage, *, but: Sequence[str]) -> list[str]:
    """Return what changed of a stage's own command, dependencies and outputs, in other ways than `but`."""
    changes = ["command"] if stage.changed_stage() else []
    for entry in (*(() if stage.frozen else stage.deps), *stage.outs):  # as DVC looks
        changes += [f"{path} {state}" for path, state in entry.status().items() if state not in but]
    return changes


def main(arguments: list[str]) -> int:
    """Print the plan as JSON: `python -m pipeline.plan ROOT [FALLBACK]`, for the `dvc` process above, or
    `python -m pipeline.plan ROOT --targets [TARGET …]`, for a `dvc repro` of these.
    """
    root, given = Path(arguments[0]), arguments[1:]
    gc.disable()  # a sixth of the time: YAML makes very many objects, and the process ends soon
    command: list[str] | None
    if given[:1] == ["--targets"]:
        command, folder, fallback = ["dvc", "repro", *given[1:]], str(root), None
    else:
        command, folder = dvc_command() or (None, str(root))
        fallback = os.environ.get("DVC_STAGE") or (given[0] if given else None)  # with the path of its dvc.yaml
    if Path(folder).is_relative_to(root.resolve()):  # which may have a dvc.yaml of its own
        os.chdir(folder)
    json.dump(stale_stages(root, command, fallback=fallback), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # a third of a second: Python would take apart object by object what the graph is made of


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The process that submits a stage's cells, as the stage's driver starts it, and what the two agree on.

No heavy imports: the driver waits for hours beside many others.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.cell import digest

RETRY_S = 30.0
"""Pause before cells that were not submitted are tried again: the cluster is full, or their upstream is unfinished."""

LATER = 75
"""Exit status of a launch that left cells for later; its output says why."""

GROWN = "more memory: "
"""Prefix of launch output that is shown even when the launch succeeds."""


class Launcher:
    """Submits what is missing in a process of its own, in its own session: Ctrl-C here must not split a submission."""

    def __init__(self, root: Path, scale: str, *, stage: str, keys: Iterable[str]) -> None:
        self.root, self.said = root, ""
        self.command = [sys.executable, "-m", "pipeline.launch", str(root), scale, stage, digest(sorted(keys))]

    def __call__(self) -> None:
        """Submit; say once why something waits, and what gets more memory. Raises RuntimeError where submitting failed.

        The output goes to a file, since the jobs of one machine inherit it and would keep a pipe open.
        """
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                self.command,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = process.wait()
            except KeyboardInterrupt:  # jobs that nobody wrote down could not be told to leave
                print("interrupted; what is being submitted is written down first", file=sys.stderr, flush=True)
                process.wait()
                raise
            output.seek(0)
            said = output.read().strip()[-3000:]
        if status < 0:  # as login nodes end what is long or large; what it claimed is let go of with what died
            said = f"{said}\nsignal {-status} ended the submission; it is tried again every {RETRY_S:.0f} s".strip()
        if status < 0 or status == LATER:
            if said != self.said:
                print(said, file=sys.stderr, flush=True)
            self.said = said
        elif status != 0:
            raise RuntimeError(f"nothing could be submitted: {said}")
        else:
            for line in said.splitlines():
                if line.startswith(GROWN):
                    print(line, file=sys.stderr, flush=True)

"""What a terminal shows, and what is written where there is none: progress, colours, completion."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
BOARD = """
import sys
from pathlib import Path
from pipeline.progress import Board
from pipeline.store import Store
with Board(Store(Path(sys.argv[1])), "train@table_1") as board:
    board.show({"a": "done", "b": "running", "c": "queued"})
"""
COLOUR = re.compile(rb"\x1b\[[0-9;]*3[0-7]|\x1b\[[0-9;]*38;")


def in_terminal(command: list[str], **environment: str) -> bytes:
    """Run a command with a pseudo-terminal for all it reads and writes; return what it wrote."""
    controller, terminal = pty.openpty()
    given = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        command, cwd=PROJECT, stdin=terminal, stdout=terminal, stderr=terminal,
        env=given | {"TERM": "xterm-256color", "COLUMNS": "120"} | environment,
    )  # fmt: skip
    os.close(terminal)
    written = b""
    while True:
        try:
            part = os.read(controller, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        written += part
    os.close(controller)
    assert process.wait() == 0, written
    return written


def test_a_terminal_has_a_bar_in_colour_and_no_color_takes_the_colour_away(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BOARD, str(tmp_path)]
    coloured, plain = in_terminal(command), in_terminal(command, NO_COLOR="1")
    for written in (coloured, plain):
        assert b"train@table_1" in written
        assert b"1 running, 1 queued" in written
    assert COLOUR.search(coloured)
    assert not COLOUR.search(plain)


def test_without_a_terminal_nothing_is_drawn(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BOARD, str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


def completed(*words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        eval "$({sys.executable} -m pipeline completion bash)"
        COMP_WORDS=(pipeline {quoted}); COMP_CWORD={len(words)}
        $(complete -p pipeline | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices() -> None:
    assert completed("st") == ["status"]
    assert set(completed("status", "--")) >= {"--watch", "--json"}
    assert completed("export", "--as", "o") == ["onnx"]


def test_zsh_code_names_the_program() -> None:
    command = [sys.executable, "-m", "pipeline", "completion", "zsh"]
    code = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert "#compdef pipeline" in code

"""What a terminal shows, and what is written where there is none: progress, colours, completion."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import progress
from pipeline.__main__ import _runs, main
from pipeline.cell import chain
from pipeline.commands.command_line import make_parser
from pipeline.store import Store
from tests.pipeline.test_steering import Lab

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


FOLLOW = """
from pipeline.progress import follow
print(sum(1 for _ in follow(iter("abc"), total=3, title="predicting")))
"""


def test_images_that_are_predicted_are_counted_against_their_number() -> None:
    written = in_terminal([sys.executable, "-c", FOLLOW])
    assert b"predicting" in written
    assert b"3/3" in written


def test_without_a_terminal_predicting_says_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now_s))
    for _ in progress.follow(range(4), total=4, title="predicting"):
        now_s += 40
    assert capsys.readouterr().err == "1 min, predicting: 3 of 4\n"


def test_without_a_terminal_a_line_is_written_when_a_minute_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now_s))
    for key in "bcef":
        assert Store(tmp_path).claim(key, "s")
    with progress.Board(Store(tmp_path), "train@table_1") as board:
        for now_s in (1030.0, 1061.0, 1090.0, 1122.0):  # noqa: B007
            board.show({"a": "done", "b": "running", "c": "queued", "d": "failed", "g": "missing"})
    line = "train@table_1: 2 of 5 cells, 1 running, 1 queued, 1 not submitted, 1 failed (5 of all tables left)"
    assert capsys.readouterr().err == f"1 min, {line}\n2 min, {line}\n"


def test_status_0_is_done_1_something_wrong_and_said_2_not_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["completion", "bash"]) == 0
    assert main(["tables", "--scale", "embedded", "table_99"]) == 1
    assert "table_99: no such table" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["tables", "--no-such-option"])
    assert ended.value.code == 2


def test_status_130_is_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_keywords: object) -> None:
        raise KeyboardInterrupt

    Lab(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.commands.live.show_status", interrupted)
    assert main(["status"]) == 130


def test_status_watch_shows_what_changes_until_ctrl_c(tmp_path: Path) -> None:
    """Typed at a terminal of its own, since only there the key is a signal."""
    lab = Lab(tmp_path)
    *_, train, _ = chain(lab.rows("experiment")[0])
    controller, terminal = pty.openpty()
    given = os.environ | {"PYTHONPATH": str(PROJECT), "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "50"}
    watching = subprocess.Popen(
        ["setsid", "--ctty", "env", "--default-signal=INT", sys.executable, "-m", "pipeline", "status", "--watch"],
        cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal,
        env=given | {"XDG_CONFIG_HOME": str(tmp_path / "nothing")},
    )  # fmt: skip
    os.close(terminal)
    try:
        before = _read_until(controller, b"restarts")
        assert b"smoke/table_7" in before
        assert b"7_1" not in before
        lab.store.claim(train.key, "s")
        lab.store.hold(train.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"})
        after = _read_until(controller, b"7_1")
        assert train.name[:20].encode() in after
        os.write(controller, b"\x03")
        _read_until(controller, b"\x1b[?1049l")  # the screen as it was
        assert watching.wait(60) == 130
    finally:
        watching.kill()
        watching.wait()
        os.close(controller)


def test_help_says_what_the_exit_status_means(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["status", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        said = " ".join(capsys.readouterr().out.split())
        assert all(words in said for words in ("0 done", "1 failed", "2 invalid", "130 Ctrl-C"))


@pytest.mark.parametrize("command", [["tables", "--scale", "embedded", "table_7"], ["doctor", "--dry-run"], ["gc"]])
def test_what_reads_answers_in_json(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("pipeline.store.find_store", lambda _root: tmp_path)
    monkeypatch.setattr("pipeline.listings.adopt", lambda *_, **__: 0)  # of a whole scale
    main([*command, "--json"])
    answer = json.loads(capsys.readouterr().out)
    expected = {"tables": {"table_7"}, "doctor": {"findings", "mended"}, "gc": {"folders", "bytes", "removed"}}
    assert set(answer) == expected[command[0]]


def test_a_log_in_json_has_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [row] = json.loads((PROJECT / "reports" / "embedded" / "cells" / "experiment.json").read_text())
    key, store = chain(row)[-1].key, Store(tmp_path)
    store.work(key).mkdir(parents=True)
    (store.work(key) / "log.txt").write_text("one\ntwo\n")
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("pipeline.store.find_store", lambda _root: tmp_path)
    monkeypatch.setattr("pipeline.listings.adopt", lambda *_, **__: 0)
    assert main(["logs", key[:12], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == ["one", "two"]


def test_every_command_and_all_it_takes_is_explained() -> None:
    parser = make_parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert (
        set(commands.choices)
        == {*_runs(), "completion"}
        == {choice.dest for choice in commands._choices_actions if choice.help}
    )
    for name, command in commands.choices.items():
        assert command.description, name
        silent = [action.dest for action in command._actions if action.help in (None, "", argparse.SUPPRESS)]
        assert not silent, f"{name}: {silent}"
        assert command.format_help().endswith("130 Ctrl-C.\n")


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


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh: apt-get install zsh")
def test_zsh_completes_commands_in_a_terminal() -> None:
    """What a person sees after typing `pipeline stat` and the tabulator: zsh alone knows how to ask its functions."""
    controller, terminal = pty.openpty()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=PROJECT, stdin=terminal, stdout=terminal, stderr=terminal,
        env={"PATH": path, "TERM": "dumb", "HOME": str(PROJECT)}, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        code = 'eval "$(python -m pipeline completion zsh)"'
        os.write(controller, f"autoload -U compinit; compinit -D -u; {code}; echo re''ady\n".encode())
        assert b"ready" in _read_until(controller, b"ready\r")
        os.write(controller, b"pipeline stat\t")
        assert b"status" in _read_until(controller, b"status")
    finally:
        shell.kill()
        shell.wait()
        os.close(controller)


def _read_until(controller: int, wanted: bytes, timeout_s: float = 60) -> bytes:
    seen, end = b"", time.monotonic() + timeout_s
    while wanted not in seen and time.monotonic() < end:
        if select.select([controller], [], [], 1)[0]:
            seen += os.read(controller, 4096)
    return seen


def test_zsh_code_names_the_program() -> None:
    command = [sys.executable, "-m", "pipeline", "completion", "zsh"]
    code = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert "#compdef pipeline" in code


def test_completion_is_printed_outside_of_any_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out.startswith("pipeline()")


@pytest.mark.parametrize(
    "words",
    [["logs", "x", "-f", "--json"], ["status", "--watch", "--json"], ["track", "--follow", "--rebuild"]],
    ids=lambda words: words[0],
)
def test_options_that_exclude_each_other_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_an_epoch_that_is_not_kept_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "experiment", "out", "--epoch", "first"])
    assert "choose from" in capsys.readouterr().err

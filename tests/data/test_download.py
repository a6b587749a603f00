from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.data import download
from pipeline.data.download import fetch
from pipeline.data.published import Remote

CONTENT = bytes(range(256)) * 4000  # 1 MB


@dataclass
class Host:
    """A loopback web server: what it holds, and how it misbehaves for the next answers."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ranges: bool = True
    gate: threading.Event | None = None  # that the second half of an answer waits for
    waiting: threading.Event = field(default_factory=threading.Event)


def answer(request: BaseHTTPRequestHandler, host: Host) -> None:
    wanted = request.headers.get("Range")
    host.requests.append((request.path, wanted))
    fault = host.faults.pop(0) if host.faults else ""
    content = host.files.get(request.path)
    if fault.isdigit() or content is None:
        request.send_error(int(fault or 404))
        return
    start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and host.ranges else 0
    if start >= len(content):
        request.send_error(416)
        return
    request.send_response(206 if wanted and host.ranges else 200)
    body = content[start:]
    if fault == "chunk":  # a chunk that is announced and breaks off
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"%x\r\n" % len(body) + body[: len(body) // 2])
        return
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if host.gate is not None:
        request.wfile.write(body[: len(body) // 2])
        host.waiting.set()
        assert host.gate.wait(60)
        body = body[len(body) // 2 :]
    request.wfile.write(body[: len(body) // 2] if fault == "cut" else body)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    made = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, made)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    made.files["/a.bin"] = CONTENT
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def remote(host: Host, content: bytes = CONTENT, algorithm: str = "sha256") -> Remote:
    digits = hashlib.new(algorithm, content).hexdigest()
    return Remote("a.bin", (f"{host.url}/a.bin",), f"{algorithm}:{digits}")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_downloaded_verified_and_not_fetched_twice(host: Host, tmp_path: Path, algorithm: str) -> None:
    for _ in range(2):
        assert fetch(remote(host, algorithm=algorithm), tmp_path).read_bytes() == CONTENT
    assert len(host.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_connection_that_breaks_is_gone_on_with_where_it_stopped(host: Host, tmp_path: Path) -> None:
    host.faults = ["cut", "cut"]
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    starts = [wanted for _, wanted in host.requests]
    assert starts == [None, "bytes=512000-", "bytes=768000-"]


def test_a_chunk_that_breaks_off_is_tried_again(host: Host, tmp_path: Path) -> None:
    """http.client says so by an exception of its own, which is no OSError."""
    host.faults = ["chunk"]
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    assert len(host.requests) == 2
    host.faults = ["chunk"] * download.TRIES
    (tmp_path / "a.bin").unlink()
    with pytest.raises(OSError, match=r"a\.bin could not be fetched"):
        fetch(remote(host), tmp_path)


def test_a_half_finished_download_of_an_earlier_run_continues(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:700_000])
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    assert host.requests == [("/a.bin", "bytes=700000-")]


def test_a_server_that_cannot_resume_is_asked_for_the_whole(host: Host, tmp_path: Path) -> None:
    host.ranges = False
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:700_000])
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    assert len(host.requests) == 1


def test_a_complete_part_is_taken_without_another_byte(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT


def test_a_spoilt_part_is_named_and_fetched_again(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 700_000)
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    assert "a.bin is damaged (1024000 bytes" in capsys.readouterr().out
    assert [wanted for _, wanted in host.requests] == ["bytes=700000-", None]


def test_a_file_damaged_on_disk_is_named_and_fetched_again(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"x")
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    assert "a.bin is damaged" in capsys.readouterr().out


def test_content_that_is_not_the_published_is_refused_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    host.files["/a.bin"] = b"<html>maintenance</html>"
    with pytest.raises(ValueError, match=r"a\.bin from http.* is not the published file: its 24 bytes do not match"):
        fetch(remote(host), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_passing_faults_are_tried_again_but_not_for_ever(host: Host, tmp_path: Path) -> None:
    host.faults = ["503", "500"]
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT
    (tmp_path / "a.bin").unlink()
    host.faults = ["503"] * 20
    with pytest.raises(OSError, match=r"a\.bin could not be fetched, or set DATA_MIRROR.*\n.*503"):
        fetch(remote(host), tmp_path)
    assert len(host.requests) == 3 + download.TRIES


def test_what_was_received_before_the_failure_is_kept_and_said(host: Host, tmp_path: Path) -> None:
    host.faults = ["cut", *["503"] * 20]
    with pytest.raises(OSError, match="512000 bytes are kept, run again to go on"):
        fetch(remote(host), tmp_path)
    host.faults = []
    assert fetch(remote(host), tmp_path).read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_again_but_at_the_next_address(host: Host, tmp_path: Path) -> None:
    published = Remote("a.bin", (f"{host.url}/gone", f"{host.url}/a.bin"), remote(host).checksum)
    assert fetch(published, tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in host.requests] == ["/gone", "/a.bin"]


def test_a_mirror_address_takes_the_place_of_the_published(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_MIRROR", f"{host.url}/mirror/")
    host.files["/mirror/deep/a.bin"] = CONTENT
    published = Remote("deep/a.bin", ("http://never.invalid/a.bin",), remote(host).checksum)
    assert fetch(published, tmp_path) == tmp_path / "deep/a.bin"


def test_a_mirror_folder_needs_no_network(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(FileNotFoundError, match=r"mirror/a\.bin is not there; DATA_MIRROR must hold it"):
        fetch(remote(host), tmp_path / "out")
    (tmp_path / "mirror" / "a.bin").write_bytes(CONTENT)
    assert fetch(remote(host), tmp_path / "out").read_bytes() == CONTENT
    assert host.requests == []


def test_a_host_that_cannot_be_reached_is_named(host: Host, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/a\.bin: .*refused"):
        fetch(Remote("a.bin", ("http://127.0.0.1:9/a.bin",), "md5:0"), tmp_path)


def test_two_that_want_one_file_fetch_it_once(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second comes when half of the file is there, and looks again when the first is done."""
    host.gate, second_waits = threading.Event(), threading.Event()
    flock = download.fcntl.flock

    def noted(file: object, how: int) -> None:
        if how == download.fcntl.LOCK_EX:
            second_waits.set()
        flock(file, how)

    monkeypatch.setattr(download.fcntl, "flock", noted)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, remote(host), tmp_path)
        assert host.waiting.wait(60)
        second = pool.submit(fetch, remote(host), tmp_path)
        assert second_waits.wait(60)
        host.gate.set()
        assert first.result(60).read_bytes() == second.result(60).read_bytes() == CONTENT
    assert len(host.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert "a.bin is being fetched by another process: waiting for it" in capsys.readouterr().out


def test_many_that_want_one_file_all_get_it_whole(host: Host, tmp_path: Path) -> None:
    """Whoever waited on a lock file that its holder removed begins again with the next."""
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(remote(host), tmp_path), range(8)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(host.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.archives import extract


def everything(name: str) -> str:
    return name


def tarred(path: Path, members: dict[str, bytes], *, change: Callable[[tarfile.TarInfo], None] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change is not None:
                change(member)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


MAKERS = [("a.tar", tarred), ("a.tgz", tarred), ("a.zip", zipped)]


@pytest.mark.parametrize(("name", "make"), MAKERS)
def test_what_is_wanted_is_extracted_to_where_it_is_wanted(
    tmp_path: Path, name: str, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive = make(tmp_path / name, {"kit/a.txt": b"a", "kit/deep/b.txt": b"b", "kit/c.doc": b"c"})
    num = extract(archive, tmp_path / "out", wanted=lambda n: n.removeprefix("kit/") if n.endswith(".txt") else None)
    assert num == 2
    found = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert found == {"a.txt": b"a", "deep/b.txt": b"b"}


@pytest.mark.parametrize("bad", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "C:/evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize(("name", "make"), MAKERS)
def test_a_path_that_leads_out_is_refused_even_if_nobody_wants_it(
    tmp_path: Path, name: str, make: Callable[[Path, dict[str, bytes]], Path], bad: str
) -> None:
    archive = make(tmp_path / name, {bad: b"x", "good.txt": b"y"})
    with pytest.raises(ValueError, match=rf"archive .*{name} holds .*evil\.txt', which leads out of its folder"):
        extract(archive, tmp_path / "in" / "out", wanted=lambda n: n if n == "good.txt" else None)
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_never_extracted(tmp_path: Path, kind: bytes) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname, member.size = kind, "/etc/passwd", 0

    archive = tarred(tmp_path / "a.tar", {"link.txt": b""}, change=change)
    assert extract(archive, tmp_path / "out", wanted=everything) == 0
    assert not (tmp_path / "out").exists()


def test_a_link_in_a_zip_is_not_extracted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    assert extract(tmp_path / "a.zip", tmp_path / "out", wanted=everything) == 0


@pytest.mark.parametrize(("name", "make"), MAKERS)
def test_a_truncated_archive_is_named(
    tmp_path: Path, name: str, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive = make(tmp_path / name, {f"{i}.bin": bytes([i]) * 50_000 + str(i).encode() * 9 for i in range(4)})
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=rf"(?s)archive .*{name} is damaged .*; remove it and run again"):
        extract(archive, tmp_path / "out", wanted=everything)

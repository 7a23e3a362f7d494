"""Outputs and cache files are whole or not there, and no state of the cache stops anybody."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instaseg_ros import files
from instaseg_ros.errors import ConfigError
from instaseg_ros.files import Cache, OutputFile, cache_dir, publish, write_whole, written_whole

Harm = Callable[[Path], object]


@pytest.fixture(autouse=True)
def first_warnings(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No warning was given yet, and the folder of last resort is empty."""
    monkeypatch.setattr(files, "_warned", set())
    last_resort = tmp_path_factory.mktemp("last")
    monkeypatch.setattr(files, "_temporary", lambda: last_resort)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path) -> Cache:
    return Cache("things", root)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path) -> None:
    """As after a power failure: the size is right, a block never got to the disk."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(64))


def test_an_output_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "a.txt", overwrite=False)
    output.part.write_text("new")
    assert output.part.suffix == ".txt"
    assert not output.path.exists()
    output.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(ConfigError, match=r"a\.txt exists: choose another name"):
        OutputFile(tmp_path / "a.txt", overwrite=False)
    other = OutputFile(tmp_path / "a.txt", overwrite=True)
    other.part.write_text("half")
    other.discard()
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_folder_replaces_one_of_its_kind_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    for content in ("old", "new"):
        output = OutputFile(path, overwrite=True, marker="meta.json")
        (output.part / "deep").mkdir(parents=True)
        (output.part / "deep" / content).touch()
        (output.part / "meta.json").write_text(content)
        output.commit()
    assert [found.name for found in tmp_path.iterdir()] == ["labels"]
    assert sorted(found.name for found in path.rglob("*")) == ["deep", "meta.json", "new"]
    (path / "meta.json").unlink()
    with pytest.raises(ConfigError, match=r"not replaced: expected a folder with meta\.json"):
        OutputFile(path, overwrite=True, marker="meta.json")


def test_what_lies_beside_an_output_is_not_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = [tmp_path / "labels.part", tmp_path / "labels.part-old"]
    for folder in mine:
        (folder / "precious").mkdir(parents=True)
    killed = OutputFile(tmp_path / "labels", overwrite=True, marker="meta.json")
    killed.part.mkdir()
    assert not caplog.records
    output = OutputFile(tmp_path / "labels", overwrite=True, marker="meta.json")
    output.part.mkdir()
    output.commit()
    assert all((folder / "precious").is_dir() for folder in mine)
    assert killed.part.is_dir()  # another run may be writing it
    assert [str(killed.part) in record.message for record in caplog.records] == [True]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write_whole(path, b"before")
    with pytest.raises(ValueError), written_whole(path) as part:
        part.write_bytes(b"half")
        raise ValueError
    assert path.read_bytes() == b"before"
    assert [found.name for found in tmp_path.iterdir()] == ["state.pt"]


def test_what_gets_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def sync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    rename = os.replace
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("renamed"), rename(*paths)))
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "inner").touch()
    publish(tmp_path / "part", tmp_path / "whole")
    assert done == ["part", "inner", "renamed", tmp_path.name]


def test_what_was_kept_is_found_again(cache: Cache, root: Path) -> None:
    assert cache.read("a") is None
    assert not cache.names()
    cache.write("a", b"content")
    cache.write("b", b"")
    assert (cache.read("a"), cache.read("b")) == (b"content", b"")
    assert cache.names() == ["a", "b"]
    assert cache.path("a").parent == root / "things"
    cache.forget("a")
    assert cache.names() == ["b"]


@pytest.mark.parametrize(
    "harm", [cut, zero, lambda path: os.truncate(path, 0), lambda path: path.write_bytes(b"x")]
)
def test_what_is_not_whole_is_not_read_and_written_anew(
    cache: Cache, caplog: pytest.LogCaptureFixture, harm: Harm
) -> None:
    for name in ("a", "b"):
        cache.write(name, bytes(range(1, 200)))
        harm(cache.path(name))
        assert cache.read(name) is None
    assert len(caplog.records) == 1
    assert f"{cache.path('a')} is rebuilt" in caplog.text
    cache.write("a", b"again")
    assert cache.read("a") == b"again"


def test_a_folder_in_the_place_of_a_file_is_no_harm(cache: Cache) -> None:
    cache.path("a").mkdir(parents=True)
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert cache.read("a") == b"content"  # from the folder of last resort


@pytest.mark.parametrize("path", ["file/below", "/proc/x", "file"])
def test_where_nothing_can_be_written_another_folder_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    (tmp_path / "file").touch()
    cache = Cache("things", tmp_path / path)
    for name in ("a", "b"):
        cache.write(name, b"content")
        assert cache.read(name) == b"content"
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text and "INSTASEG_CACHE" in caplog.text


def test_on_a_full_disk_nothing_is_kept_and_nothing_left(tmp_path: Path) -> None:
    """With a limit on the size of files, which is met as a full disk is."""
    code = (
        "import resource, sys\n"
        "from instaseg_ros import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "cache = files.Cache('things', sys.argv[1])\n"
        "cache.write('large', bytes(2000))\n"
        "cache.write('larger', bytes(3000))\n"
        "cache.write('small', b'fits')\n"
        "print(cache.read('large'), cache.names())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "cache"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.stdout == "None ['small']\n", done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["small.cached"]


def test_what_others_may_write_is_not_believed(
    cache: Cache, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write("a", b"content")
    cache.path("a").chmod(0o666)
    assert cache.read("a") is None
    cache.write("a", b"content")
    assert cache.read("a") == b"content"
    (root / "things").chmod(0o777)
    assert cache.read("a") is None
    cache.write("a", b"elsewhere")
    assert cache.read("a") == b"elsewhere"
    (root / "things").chmod(0o755)
    assert cache.read("a") == b"content"
    assert [("mode 666" in r.message, "mode 777" in r.message) for r in caplog.records] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("uid", "mode", "said"),
    [
        (os.geteuid(), 0o644, ""),
        (0, 0o644, ""),
        (os.geteuid() + 7, 0o644, f"it belongs to user {os.geteuid() + 7}"),
        (os.geteuid(), 0o664, "others may write to it (mode 664)"),
        (os.geteuid(), 0o646, "others may write to it (mode 646)"),
    ],
)
def test_files_of_others_are_told_by_owner_and_mode(uid: int, mode: int, said: str) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, uid, 0, 0, 0, 0, 0))
    reason = files._open_to_others(found)
    assert reason.startswith(said) and bool(reason) == bool(said)


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_what_is_kept_can_be_read_again_whatever_the_umask(cache: Cache, umask: int) -> None:
    before = os.umask(umask)
    try:
        cache.write("a", b"content")
    finally:
        os.umask(before)
    assert cache.read("a") == b"content"


def test_the_cache_is_bounded_and_what_was_used_last_stays(
    cache: Cache, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_CACHE_BYTES", 3500)
    (root / "things").mkdir(parents=True)
    foreign = root / "things" / "model.onnx"
    foreign.write_bytes(bytes(9000))
    for age, name in enumerate(("c", "b", "a")):
        cache.write(name, bytes(1000))
        os.utime(cache.path(name), (1000 - age, 1000 - age))
    killed = files.part_of(cache.path("d"))
    running = files.part_of(cache.path("d"))
    killed.touch()
    running.touch()
    os.utime(killed, (0, 0))
    assert cache.read("a") is not None  # so b is the oldest
    cache.write("d", bytes(1000))
    assert cache.names() == ["a", "c", "d"]
    assert foreign.exists() and running.exists() and not killed.exists()
    cache.write("huge", bytes(5000))
    assert cache.names() == ["huge"]  # the newest stays, whatever its size


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INSTASEG_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert cache_dir() == Path("/one")
    monkeypatch.delenv("INSTASEG_CACHE")
    assert cache_dir() == Path("/two/instaseg_ros")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/three/.cache/instaseg_ros")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no entry in passwd either
    assert cache_dir() == files._temporary()


def test_a_cache_that_cannot_be_listed_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "things").touch()
    cache = Cache("things", tmp_path)
    assert cache.names() == []
    assert cache.read("a") is None


def test_troubles_are_warnings(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    cache.write("a", b"content")
    cut(cache.path("a"))
    cache.read("a")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

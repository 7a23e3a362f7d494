"""Recordings that have a URL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb")
pytest.importorskip("fsspec")

import fsspec
from fleet_runs import write_said
from written_recordings import CLASS_NAMES, stamp_ns, two_instances, write_street_bag

from instaseg_ros import cli
from instaseg_ros.errors import ConfigError, InputError, MissingExtraError
from instaseg_ros.fleet import remote
from instaseg_ros.fleet.remote import Remote, local_copy
from instaseg_ros.fleet.source import Source, names_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's file system in memory, and a cache folder of the test's own."""
    monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def copies(tmp_path: Path) -> list[str]:
    """The names of all copies there are."""
    return sorted(path.name for path in (tmp_path / "cache").glob("recordings/*/*"))


def test_a_copy_is_used_again_until_the_file_changes(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/drives/a.mcap", b"first")
    one = Remote("memory://drives/a.mcap")
    with local_copy(one) as path:
        assert path.name == "a.mcap" and path.read_bytes() == b"first"
    path.write_bytes(b"kept")
    with local_copy(one) as again:
        assert again == path and again.read_bytes() == b"kept"
    memory.pipe("/drives/a.mcap", b"second")
    with local_copy(one) as changed:
        assert changed != path and changed.read_bytes() == b"second"


def test_a_folder_is_copied_with_its_files(memory: Any) -> None:
    for name in ("metadata.yaml", "bag_0.mcap", "deeper/no.mcap"):
        memory.pipe(f"/drives/bag/{name}", name.encode())
    with local_copy(Remote("memory://drives/bag")) as path:
        assert sorted(one.name for one in path.iterdir()) == ["bag_0.mcap", "metadata.yaml"]


def test_room_is_made_of_what_nobody_reads(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(remote.LIMIT, "0.00000002")  # 20 bytes
    for name in "abcd":
        memory.pipe(f"/{name}.mcap", bytes(8))
    with local_copy(Remote("memory://a.mcap")) as held:
        for age, name in enumerate("bc"):
            with local_copy(Remote(f"memory://{name}.mcap")) as path:
                os.utime(path.parent, (age, age))
        assert held.exists() and copies(tmp_path) == ["a.mcap", "c.mcap"]
    with local_copy(Remote("memory://d.mcap")):
        assert copies(tmp_path) == ["a.mcap", "d.mcap"]  # c was the older one
    monkeypatch.setenv(remote.LIMIT, "much")
    with pytest.raises(ConfigError, match="expected a number of gigabytes above 0, got much"):
        remote.limit_bytes()


def test_what_cannot_be_read_is_named(memory: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recording memory://none\.mcap: no such file or folder"):
        Remote("memory://none.mcap").files()
    with pytest.raises(ConfigError, match=r"nothing://a cannot be read: .*nothing"):
        Remote("nothing://a")
    with pytest.raises(ConfigError, match="expected the URL of a file or a folder"):
        Remote("memory://")
    memory.pipe("/a.mcap", b"")
    files = Remote("memory://a.mcap").files()
    memory.rm("/a.mcap")
    with pytest.raises(InputError, match=r"recording memory://a\.mcap cannot be read"):
        Remote("memory://a.mcap").copy(files, tmp_path / "copy")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(MissingExtraError, match=r"'s3fs'.*pip install '\.\[remote\]'"):
        Remote("s3://drives/a.mcap")


def test_sources_of_urls(memory: Any) -> None:
    memory.pipe("/x/a.mcap", b"12")
    one, other = Remote("memory://x/a.mcap"), Remote("memory://y/a.mcap")
    names = names_of([one, other, Remote("memory://y/b.mcap")])
    assert names[2] == "b" and len(set(names)) == 3 and names[0].startswith("a-")
    source = Source("a", one)
    before = source.identity()
    assert source.where == "memory://x/a.mcap" and before["path"][0][:2] == ("a.mcap", 2)
    memory.pipe("/x/a.mcap", b"34")
    assert source.identity() != before


def test_recordings_of_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Evaluated as from disk; done once, not again; the server is moto's."""
    pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
    server_of = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = server_of.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path / "cache"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("drives")
        results = {stamp_ns(k): two_instances(k) for k in range(4) if k != 2}
        bag = write_street_bag(tmp_path / "a.mcap", 4)
        robot = write_said(tmp_path / "robot.mcap", results, CLASS_NAMES)
        for path in (bag, robot):
            system.put_file(str(path), f"drives/2026/{path.name}")
        (tmp_path / "here").mkdir()
        there = ["s3://drives/2026/a.mcap", "--predictions", "s3://drives/2026/robot.mcap"]
        here = [str(bag), "--predictions", str(robot)]
        numbers = {}
        for data in (here, there):
            run = tmp_path / f"run{len(numbers)}"
            assert cli.main(["evaluate", *data, "-o", str(run)]) == 0
            numbers[data[0]] = json.loads((run / "evaluation.json").read_text())
        for one in numbers.values():
            one.pop("data"), one["recordings"]["a"].pop("recording")
        assert numbers[here[0]] == numbers[there[0]] and numbers[here[0]]["dropped"] == 1
        capsys.readouterr()
        assert cli.main(["evaluate", *there, "-o", str(run)]) == 0
        assert "done before, not again: a" in capsys.readouterr().out
        assert cli.main(["evaluate", "s3://drives/none.mcap", *there[1:]]) == 2
        assert "recording s3://drives/none.mcap: no such file" in capsys.readouterr().err
        assert cli.main(["evaluate", "s3://no-bucket/none.mcap", *there[1:]]) == 2
        assert "s3://no-bucket/none.mcap" in capsys.readouterr().err
    finally:
        server.stop()

"""Compiled kernels are kept, and no state of what is kept stops or misleads the program."""

from __future__ import annotations

import importlib
import linecache
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numba
import pytest

from instaseg_ros import files, numba_cache
from instaseg_ros.numba_cache import cached_njit

FACTOR = 2


def scaled(x: int) -> int:
    return FACTOR * x


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels for the test alone."""
    monkeypatch.setattr(files, "_warned", set())
    monkeypatch.setattr(files, "_temporary", lambda: tmp_path / "last resort")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def loaded(function: Callable[[int], int], expected: int) -> bool:
    """Whether the kernel came from the cache; it computes what is expected in any case."""
    made = cached_njit()(function)
    assert made(3) == expected
    hits, misses = made.stats.cache_hits.total(), made.stats.cache_misses.total()
    assert hits + misses == 1
    return bool(hits)


def test_a_kernel_is_compiled_once(kept: Path) -> None:
    assert not loaded(scaled, 6)
    (entry,) = kept.iterdir()
    assert entry.name.startswith("scaled-")
    assert loaded(scaled, 6)
    assert [path.name for path in kept.iterdir()] == [entry.name]


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes()[:-2000] + bytes(2000)),
        lambda path: path.chmod(0o666),
        lambda path: path.parent.chmod(0o777),
    ],
)
def test_a_damaged_or_foreign_kernel_is_compiled_anew(
    kept: Path, harm: Callable[[Path], object]
) -> None:
    loaded(scaled, 6)
    (entry,) = kept.iterdir()
    harm(entry)
    assert not loaded(scaled, 6)
    assert loaded(scaled, 6)


def test_what_is_whole_and_no_kernel_is_compiled_anew(kept: Path) -> None:
    loaded(scaled, 6)
    numba_cache._kept().write(next(iter(numba_cache._kept().names())), b"no pickle")
    assert not loaded(scaled, 6)
    assert loaded(scaled, 6)


def test_a_kernel_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(files, "_temporary", lambda: tmp_path / "file")
    assert not loaded(scaled, 6)
    assert not loaded(scaled, 6)


def test_bounds_checks_have_kernels_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not loaded(scaled, 6)
    monkeypatch.setattr(numba.config, "BOUNDSCHECK", 1)
    assert not loaded(scaled, 6)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sources of a package whose kernel calls another and uses constants."""
    folder = tmp_path / "a_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "constants.py").write_text("ADDED = 1\n")
    (folder / "inner.py").write_text(
        "from instaseg_ros.numba_cache import cached_njit\n"
        "@cached_njit()\ndef doubled(x):\n    return 2 * x\n"
    )
    (folder / "outer.py").write_text(
        "from . import constants\nfrom .inner import doubled\n"
        "def kernel(x):\n    return doubled(x) + constants.ADDED\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    forget()


def forget() -> None:
    linecache.clearcache()
    for name in [name for name in sys.modules if name.startswith("a_package")]:
        del sys.modules[name]


def imported() -> ModuleType:
    forget()
    importlib.invalidate_caches()
    return importlib.import_module("a_package.outer")


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [("inner.py", "2 * x", "3 * x", 10), ("constants.py", "1", "5", 11)],
)
def test_a_change_in_what_a_kernel_uses_is_seen(
    modules: Path, file: str, before: str, after: str, expected: int
) -> None:
    outer = cached_njit()(imported().kernel)
    assert outer(3) == 7
    path = modules / file
    path.write_text(path.read_text().replace(before, after) + "# longer\n")
    for cache in modules.glob("__pycache__/*"):
        cache.unlink()
    again = cached_njit()(imported().kernel)
    assert again(3) == expected


def test_all_kernels_of_the_package_use_this_cache() -> None:
    package = Path(numba_cache.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    own = Path(numba_cache.__file__)
    assert [str(p) for p, text in texts.items() if "cache=True" in text and p != own] == []


def test_numbas_variable_names_the_folder_too(tmp_path: Path) -> None:
    code = (
        "from instaseg_ros import numba_cache\n"
        "def f(x): return x\n"
        "numba_cache.cached_njit()(f)(1)\n"
        "print(numba_cache._kept().path('x').parent)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "there")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(tmp_path / "there" / "kernels"), done.stderr
    assert len(list((tmp_path / "there" / "kernels").iterdir())) == 1

"""What `import instaseg_ros` offers, as its documentation shows it."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import instaseg_ros
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.synthetic_street.export import write_bag


def test_the_examples_of_the_package_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    street = SyntheticStreet((64, 128), sequences=1, frames_per_sequence=2)
    write_bag(street, tmp_path / "drive.mcap")
    known = {"image": street[0].frame.image}
    done = doctest.testmod(instaseg_ros, extraglobs=known)
    assert (done.failed, done.attempted) == (0, 10)


def test_every_name_is_offered_where_types_are_checked_and_where_it_is_used() -> None:
    for name in instaseg_ros.__all__:
        assert getattr(instaseg_ros, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = instaseg_ros.nothing


@pytest.mark.parametrize("module", ["", ".model.erfnet", ".frames", ".config"])
def test_what_is_small_loads_little(module: str) -> None:
    """The network needs no clustering, a config no torch."""
    heavy = {"numba", "cv2", "instaseg_ros.clustering", "instaseg_ros.methods"}
    if "model" not in module:
        heavy.add("torch")
    code = f"import sys, instaseg_ros{module}; print(*{heavy!r}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""

"""The set-up does each step once, again when inputs change, and repairs what was interrupted."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEMO = ["make_venv", "install ROS", "build_vision_msgs", "install_project"]
ALL = [*DEMO, "install suites", "install_references"]
SCRIPT = Path(__file__).parents[2] / "tools" / "setup_env.py"


class Interrupted(Exception):
    pass


class Workshop:
    """The script over an empty folder, with actions that only say what they would do."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.broken = ""
        self.venv = root / ".venv"
        self.pins = root / "tools" / "constraints" / "python.txt"
        self.message = root / "tools" / "vision_msgs" / "msg" / "Point2D.msg"
        others = (self.pins.with_name(name) for name in ("jazzy.txt", "references.txt"))
        for path in (self.pins, *others, self.message):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1\n# ROS suite\n2\n")
        for name in ("package.xml", "setup.py", "setup.cfg"):
            (root / name).write_text("1")
        self.script = load_script()
        monkeypatch.setattr(self.script, "ROOT", root)
        monkeypatch.setattr(self.script, "TOOLS", root / "tools")
        for action in ("build_vision_msgs", "install_project", "install_references"):
            monkeypatch.setattr(self.script, action, lambda *_, a=action: self.act(a))
        monkeypatch.setattr(self.script, "make_venv", self.make_venv)
        monkeypatch.setattr(self.script, "install_packages", self.install_packages)

    def install_packages(self, venv: Path, pins: Path, requirements: list[str]) -> None:
        ros = any("jazzy.txt" in word for word in requirements)
        self.act("install ROS" if ros else "install suites")

    def make_venv(self, venv: Path, with_uv: bool) -> None:
        self.act("make_venv")
        if venv.exists():
            self.script.shutil.rmtree(venv)
        venv.mkdir()

    def act(self, name: str) -> None:
        self.done.append(name)
        if name == self.broken:
            raise Interrupted

    def run(self, demo: bool = False) -> list[str]:
        """The actions of one run."""
        self.done.clear()
        self.script.set_up(self.venv, "jazzy", demo)
        return list(self.done)

    def interrupt(self, name: str) -> None:
        self.broken = name
        with pytest.raises(Interrupted):
            self.run()
        self.broken = ""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def test_everything_is_done_once(workshop: Workshop) -> None:
    assert workshop.run() == ALL
    assert workshop.run() == []


def test_the_demo_waits_for_less_and_the_rest_comes_later(workshop: Workshop) -> None:
    assert workshop.run(demo=True) == DEMO
    assert workshop.run(demo=True) == []
    assert workshop.run() == ALL[len(DEMO) :]
    assert workshop.run(demo=True) == []


def test_only_what_changed_is_done_again(workshop: Workshop) -> None:
    workshop.run()
    workshop.pins.write_text("3\n# ROS suite\n")
    assert workshop.run() == ["install ROS", "install suites"]
    workshop.message.write_text("2")
    assert workshop.run() == ["build_vision_msgs"]
    assert workshop.run() == []


def test_an_environment_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "kept").touch()
    (tmp_path / ".venv").symlink_to(tmp_path / "others")
    with pytest.raises(SystemExit, match="is a link to"):
        load_script().make_venv(tmp_path / ".venv", True)
    assert (tmp_path / "others" / "kept").exists()


def test_hashes_are_checked_where_they_are_asked_for(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Path]] = []
    monkeypatch.setattr(workshop.script, "install_verified", lambda venv, h: asked.append(h))
    workshop.run()
    assert not asked
    folder = workshop.pins.parent / "hashes"
    folder.mkdir()
    files = [folder / "python.txt", folder / "jazzy.txt"]
    for path in files:
        path.write_text("1")
    monkeypatch.setenv("HASHES", "1")
    assert workshop.run() == ["install ROS", "install suites"]
    assert asked == [files]
    assert workshop.run() == []


@pytest.mark.parametrize("name", ["python", "jazzy", "kilted"])
def test_every_pin_but_torch_has_hashes(name: str) -> None:
    """`python tools/hash_pins.py` writes them anew."""
    folder = SCRIPT.parent / "constraints"
    pins = [Requirement(line) for line in lines_of(folder / f"{name}.txt")]
    hashed = [line.split(" --hash=sha256:") for line in lines_of(folder / "hashes" / f"{name}.txt")]
    assert all(len(line) > 1 for line in hashed)
    known = {named(Requirement(line[0])) for line in hashed}
    assert known == {named(pin) for pin in pins if pin.name != "torch"}


def lines_of(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def named(pin: Requirement) -> tuple[str, str]:
    return canonicalize_name(pin.name), str(pin.specifier)


def test_each_environment_gets_what_it_needs() -> None:
    script = load_script()
    pins = SCRIPT.parent / "constraints" / "python.txt"
    headings = {"demo": script.ROS_SUITE, "kilted": script.UNIT_SUITE, "jazzy": None}
    got = {
        name: {Requirement(line).name for line in script.wanted(pins, heading)}
        for name, heading in headings.items()
    }
    assert got["demo"] < got["kilted"] < got["jazzy"]
    assert got["demo"] >= {"torch", "numba", "openvino", "rosbags", "av", "cmake", "catkin-pkg"}
    assert got["kilted"] - got["demo"] >= {"pytest", "colcon-ros"}
    assert got["jazzy"] - got["kilted"] >= {"triton", "nncf", "onnx", "matplotlib", "mypy"}


@pytest.mark.parametrize("name", ["build_vision_msgs", "install_project"])
def test_an_interrupted_step_is_done_again(workshop: Workshop, name: str) -> None:
    workshop.interrupt(name)
    assert workshop.run() == ALL[ALL.index(name) :]
    assert workshop.run() == []


@pytest.mark.parametrize(
    "name", ["make_venv", "install ROS", "install suites", "install_references"]
)
def test_a_torn_environment_is_made_anew(workshop: Workshop, name: str) -> None:
    workshop.interrupt(name)
    assert workshop.run() == ALL
    workshop.pins.write_text("3\n# ROS suite\n")
    workshop.interrupt("install suites")
    assert workshop.run() == ALL


class Installer:
    """uv and pip of an environment, as programs that note their words and the variables of uv."""

    def __init__(self, venv: Path) -> None:
        self.venv = venv
        (venv / "bin").mkdir(parents=True)
        (venv / "config").touch()

    def add(self, name: str, code: int = 0) -> None:
        program = self.venv / "bin" / name
        program.write_text(
            f'#!/bin/sh\ncase "$*" in *"config list"*) cat {self.venv}/config; exit;; esac\n'
            f'{{ echo "{name} $*"; env | grep -E "^(UV_|SSL_)" | sort; }} >> {self.venv}/said\n'
            f"exit {code}\n"
        )
        program.chmod(0o755)

    def said(self) -> list[str]:
        return (self.venv / "said").read_text().splitlines()


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    for name in [name for name in os.environ if name.startswith(("UV_", "SSL_", "PIP_"))]:
        monkeypatch.delenv(name)
    return Installer(tmp_path / "venv")


def test_pip_installs_where_there_is_no_uv(installer: Installer) -> None:
    installer.add("python")
    load_script().install(installer.venv, "numpy")
    (line,) = installer.said()
    assert line.endswith("install numpy")


def test_uv_installs_from_where_pip_would(
    installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installer.venv / "config").write_text(
        ":env:.find-links='/c\\n/d'\nglobal.cert='/ca'\nglobal.extra-index-url='/a /b'\n"
        "global.find-links='/old'\nglobal.quiet='1'\n"
    )
    installer.add("python")
    installer.add("uv")
    monkeypatch.setenv("UV_CONCURRENT_DOWNLOADS", "3")
    monkeypatch.setenv("SSL_CERT_FILE", "/mine")
    load_script().install(installer.venv, "numpy")
    line, *variables = installer.said()
    assert line == f"uv pip install --python={installer.venv}/bin/python numpy"
    assert variables == [
        "SSL_CERT_FILE=/mine",
        "UV_CONCURRENT_DOWNLOADS=3",
        "UV_FIND_LINKS=/c,/d",
        "UV_INDEX=/a /b",
        "UV_INDEX_STRATEGY=unsafe-best-match",
    ]


def test_pip_takes_over_where_uv_fails(installer: Installer) -> None:
    installer.add("python")
    installer.add("uv", code=2)
    load_script().install(installer.venv, "--no-deps", "numpy")
    assert installer.said()[-1].endswith("install --force-reinstall --no-deps numpy")

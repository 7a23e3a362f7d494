"""The set-up does each step once, again when inputs change, and repairs what was interrupted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALL = [
    "make_venv",
    "install_packages",
    "install_references",
    "build_vision_msgs",
    "install_project",
]
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
            path.write_text("1")
        for name in ("package.xml", "setup.py", "setup.cfg"):
            (root / name).write_text("1")
        self.script = load_script()
        monkeypatch.setattr(self.script, "ROOT", root)
        monkeypatch.setattr(self.script, "TOOLS", root / "tools")
        for action in ALL[1:]:
            monkeypatch.setattr(self.script, action, lambda *_, a=action: self.act(a))
        monkeypatch.setattr(self.script, "make_venv", self.make_venv)

    def make_venv(self, venv: Path) -> None:
        self.act("make_venv")
        if venv.exists():
            self.script.shutil.rmtree(venv)
        venv.mkdir()

    def act(self, name: str) -> None:
        self.done.append(name)
        if name == self.broken:
            raise Interrupted

    def run(self) -> list[str]:
        """The actions of one run."""
        self.done.clear()
        self.script.set_up(self.venv, "jazzy")
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


def test_only_what_changed_is_done_again(workshop: Workshop) -> None:
    workshop.run()
    workshop.pins.write_text("2")
    assert workshop.run() == ["install_packages"]
    workshop.message.write_text("2")
    assert workshop.run() == ["build_vision_msgs"]
    assert workshop.run() == []


def test_an_environment_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "kept").touch()
    (tmp_path / ".venv").symlink_to(tmp_path / "others")
    with pytest.raises(SystemExit, match="is a link to"):
        load_script().make_venv(tmp_path / ".venv")
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
    assert workshop.run() == ["install_packages"]
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


def test_kilted_gets_what_its_tests_and_the_demo_need() -> None:
    script = load_script()
    asked = {}
    for distro in script.VENVS:
        lines = script.wanted(SCRIPT.parent / "constraints" / "python.txt", distro)
        asked[distro] = {Requirement(line).name for line in lines}
    assert asked["kilted"] >= {"torch", "numba", "openvino", "rosbags", "pytest", "colcon-ros"}
    left_out = asked["jazzy"] - asked["kilted"]
    assert left_out >= {"triton", "nncf", "onnx", "matplotlib", "mypy"}


@pytest.mark.parametrize("name", ["build_vision_msgs", "install_project"])
def test_an_interrupted_step_is_done_again(workshop: Workshop, name: str) -> None:
    workshop.interrupt(name)
    assert workshop.run() == ALL[ALL.index(name) :]
    assert workshop.run() == []


@pytest.mark.parametrize("name", ["make_venv", "install_packages"])
def test_a_torn_environment_is_made_anew(workshop: Workshop, name: str) -> None:
    workshop.interrupt(name)
    assert workshop.run() == ALL
    workshop.pins.write_text("2")
    workshop.interrupt("install_packages")
    assert workshop.run() == ALL

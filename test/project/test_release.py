"""What package indexes, bloom, GitHub and Docker read: valid, and in agreement with the rest."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
import yaml
from catkin_pkg.changelog import get_changelog_from_path
from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from setup_file import ROOT, setup_arguments
from test_packaging import PYTHONS, key

URLS = "".join(
    f'\n  <url type="{kind}">https://example.org/{kind}</url>'
    for kind in ("website", "repository", "bugtracker")
)
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.glob(".github/workflows/*.yml"))
}
DOCKERFILES = sorted(ROOT.glob("docker/*.Dockerfile"))
DISTROS = ["humble", "jazzy", "kilted", "lyrical"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a release is read from, ready: with addresses and a dated section in the changelog."""
    for name in ("README.md", "setup.py", "LICENSE", "instaseg_ros/weights/street.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    manifest = (ROOT / "package.xml").read_text(encoding="utf-8")
    manifest = manifest.replace("instaseg.invalid", "example.org")
    (tmp_path / "package.xml").write_text(manifest.replace("</maintainer>", f"</maintainer>{URLS}"))
    changelog = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    heading = f"{setup_arguments()['version']} (2026-01-31)"
    changelog = re.sub(r"^Forthcoming\n-+$", f"{heading}\n{'-' * 18}", changelog, flags=re.M)
    (tmp_path / "CHANGELOG.rst").write_text(changelog, encoding="utf-8")
    (tmp_path / "test" / "compatibility" / setup_arguments()["version"]).mkdir(parents=True)
    return tmp_path


@pytest.mark.newest
def test_an_index_takes_the_metadata(checkout: Path) -> None:
    from packaging.metadata import Metadata

    command = [sys.executable, "setup.py", "--quiet", "egg_info"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (checkout / "instaseg_ros.egg-info" / "PKG-INFO").read_bytes()
    metadata = Metadata.from_email(text, validate=True)  # raises for what PyPI would refuse
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description and metadata.description.startswith("# instaseg_ros")
    assert metadata.project_urls == {
        kind.title(): f"https://example.org/{kind}"
        for kind in ("website", "repository", "bugtracker")
    }
    for python in PYTHONS:
        assert f"Programming Language :: Python :: {python}" in (metadata.classifiers or [])
    assert not [one for one in metadata.classifiers or [] if one.startswith("License")]
    if int(setuptools.__version__.split(".")[0]) >= 77:
        said = metadata.license_expression
        assert said == "Apache-2.0 AND LicenseRef-Cityscapes-non-commercial"


def test_the_source_distribution_has_what_the_launcher_needs() -> None:
    """It is no data file unless a wheel is built, and so left out by itself."""
    assert "include resource/*" in (ROOT / "MANIFEST.in").read_text(encoding="utf-8")


def release_check() -> Any:
    path = ROOT / "tools" / "check_release.py"
    spec = importlib.util.spec_from_file_location("check_release", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_ready_is_released(checkout: Path) -> None:
    version = setup_arguments()["version"]
    assert list(release_check().missing_for(checkout, version)) == []
    ((_, date, content),) = get_changelog_from_path(
        str(checkout / "CHANGELOG.rst")
    ).foreach_version()
    assert date and "Lifecycle node" in str(content[0])  # bloom writes it into the packages


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("package.xml", "", "", "tag: expected the version"),
        ("package.xml", "@example.org", "@instaseg.invalid", "no address"),
        ("package.xml", 'type="bugtracker"', 'type="website"', 'expected <url type="bugtracker">'),
        ("CHANGELOG.rst", "(2026-01-31)\n" + "-" * 18, "\n" + "-" * 18, "expected a section"),
    ],
)
def test_what_is_missing_for_a_release_is_named(
    checkout: Path, file: str, before: str, after: str, said: str
) -> None:
    text = (checkout / file).read_text(encoding="utf-8")
    (checkout / file).write_text(text.replace(before, after), encoding="utf-8")
    version = setup_arguments()["version"]
    tag = "9.9.9" if said.startswith("tag") else version
    (missing,) = release_check().missing_for(checkout, tag)
    assert said in missing


def test_the_citation_names_the_papers_of_all_methods() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["license"] == parse_package(str(ROOT)).licenses[0]
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    papers = re.findall(r"^\| `\w+` \| \[[^]]+ (\d+)\]\((\S+)\)", table, re.MULTILINE)
    assert len(papers) == 5
    assert {(str(one["year"]), one["url"]) for one in cited["references"]} == set(papers)
    assert all(one["authors"] and one["title"] for one in cited["references"])


def test_workflows_try_what_is_promised() -> None:
    assert set(WORKFLOWS) == {"docs", "ros", "tests", "wheels"}
    matrices = {
        name: job["strategy"]["matrix"]
        for workflow in WORKFLOWS.values()
        for name, job in workflow["jobs"].items()
        if "strategy" in job
    }
    assert matrices["colcon"] == {"distro": DISTROS}
    assert matrices["without-ros"] == matrices["install"] == {"python": list(PYTHONS)}
    promised = (ROOT / "docs" / "distributions.md").read_text(encoding="utf-8")
    assert all(f"\n| {distro.title()} |" in promised for distro in DISTROS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_call_what_exists(name: str) -> None:
    """With the right to read alone, and actions of a fixed series."""
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1"))
            run = step.get("run", "")
            assert set(re.findall(r"\bmake (\w+)", run)) <= targets
            for path in re.findall(r"(?:^|\s)((?:\.ci|tools|docker)/[\w./]*\w)(?=\s|$)", run):
                assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_are_made_of_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for name in re.findall(r"^!(\S+)$", kept, re.MULTILINE):
        assert (ROOT / name).exists(), name
    for name in ("setup.py", "setup.cfg", "package.xml", "README.md", "resource", "instaseg_ros"):
        assert f"\n!{name}\n" in kept
    assert text.rstrip().splitlines()[-1] in ('ENTRYPOINT ["/entrypoint.sh"]', "FROM node")
    assert re.findall(r"^USER (\w+)$", text, re.MULTILINE)[-1] == "10001"  # nobody needs root


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_have_the_versions_that_setup_promises(path: Path) -> None:
    said = setup_arguments()
    promised = [
        *said["install_requires"],
        *(one for e in said["extras_require"].values() for one in e),
    ]
    bounds = {key(Requirement(one).name): Requirement(one).specifier for one in promised}
    found = re.findall(r'"([a-z][\w-]*[<>=][^"]*)"', path.read_text(encoding="utf-8"))
    assert len(found) >= 5
    for requirement in map(Requirement, found):
        assert requirement.specifier == bounds[key(requirement.name)], requirement


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ([], "launch instaseg_ros instaseg.launch.py"),
        (["image:=/a b"], "launch instaseg_ros instaseg.launch.py image:=/a b"),
        (["ros2", "topic", "list"], "topic list"),
    ],
)
def test_arguments_of_the_image_go_to_the_launch_file(
    given: list[str], called: str, tmp_path: Path
) -> None:
    entrypoint = (ROOT / "docker" / "entrypoint.sh").read_text(encoding="utf-8")
    for folder in ("/opt/ros/", "/ws/"):
        assert folder in entrypoint
        entrypoint = entrypoint.replace(folder, f"{tmp_path}{folder}")
    (tmp_path / "entrypoint.sh").write_text(entrypoint)
    for setup in ("opt/ros/jazzy/setup.bash", "ws/install/setup.bash"):
        (tmp_path / setup).parent.mkdir(parents=True)
        (tmp_path / setup).write_text("SEEN=${SEEN}x\nexport SEEN\n")
    ros2 = tmp_path / "ros2"
    ros2.write_text('#!/bin/sh\necho "$SEEN $*"\n')
    ros2.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ROS_DISTRO": "jazzy"}
    command = ["bash", tmp_path / "entrypoint.sh", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == f"xx {called}\n", done.stderr

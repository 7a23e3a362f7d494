"""The documentation: it builds without a warning, every link leads somewhere, nothing comes from
other hosts, and its tables say what the code says."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documentation import PAGES, ROOT

from instaseg_ros import cli
from instaseg_ros.config import Config, parameters
from instaseg_ros.config.options import METHODS, options_of
from instaseg_ros.recordings.result_messages import DEBUG_TOPICS, DEPTH_TOPICS, TOPICS
from instaseg_ros.ros.parameter_file import node_parameters

pytestmark = pytest.mark.xdist_group("site")  # it is built once


class Page(HTMLParser):
    """links: where it leads. loaded: what a browser fetches by itself. anchors: its ids."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values["src"]] if "src" in values else []
        self.loaded += [values["href"]] if tag == "link" else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    pytest.importorskip("material", reason="needs the extra `docs`")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in out.rglob("*.html") if path.name != "404.html"}


def test_no_link_is_broken(site: dict[Path, Page]) -> None:
    checked = 0
    for path, page in site.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert there.is_file() or (there / "index.html").is_file(), f"{path.name}: {link}"
            if parts.fragment and there in site:
                assert unquote(parts.fragment) in site[there].anchors, f"{path.name}: {link}"
            checked += 1
    assert checked > 1000


def test_nothing_is_loaded_from_other_hosts(site: dict[Path, Page]) -> None:
    for path, page in site.items():
        assert not [link for link in page.loaded if urlsplit(link).netloc], path.name
    root = next(path for path in site if path.name == "index.html").parent
    for style in root.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert "@import" not in text and "url(http" not in text and "url(//" not in text, style


def test_every_page_is_there_once(site: dict[Path, Page]) -> None:
    names = {path.name for path in site}
    assert {Path(page).stem + ".html" for page in PAGES if page != "README.md"} <= names
    assert {"index.html", "contributing.html", "street.html", "nuclei.html"} <= names


def test_parameters_and_options_are_those_of_the_code(site: dict[Path, Page]) -> None:
    text = {path.name: page.text for path, page in site.items()}
    for leaf in node_parameters(Config()):
        assert f"<code>{leaf.name}</code>" in text["parameters.html"], leaf.name
    for method in METHODS:
        for leaf in parameters(options_of(method).DecodeConfig(), "decode."):
            assert f"<code>{leaf.name}</code>" in text["parameters.html"], leaf.name
        for leaf in parameters(options_of(method).LossConfig(), "train."):
            assert f"<code>{leaf.name}</code>" in text["train.html"], leaf.name


def test_every_verb_and_exit_code_is_explained(site: dict[Path, Page]) -> None:
    text = next(page.text for path, page in site.items() if path.name == "command-line.html")
    for verb in cli.VERBS:
        assert f"usage: instaseg {verb} " in text and f'id="instaseg-{verb}"' in text
    for code in cli.EXIT_CODES:
        assert f"<td>{code}</td>" in text


def test_formulas_are_drawn_without_a_script(site: dict[Path, Page]) -> None:
    methods = next(page.text for path, page in site.items() if path.name == "methods.html")
    assert methods.count('display="block"') >= 8
    assert "arithmatex" not in methods and r"\frac" not in methods


def test_the_topics_are_those_of_the_code() -> None:
    rows = [line.split(" | ") for line in PAGES["docs/node.md"].splitlines() if "| `~/" in line]
    described = {row[1].strip("`"): row[2] for row in rows}
    latched = {row[1].strip("`") for row in rows if "latched" in row[3]}
    for name, topic in {**TOPICS, **DEPTH_TOPICS, **DEBUG_TOPICS}.items():
        assert f"`{topic.type.replace('/msg/', '/')}`" in described[f"~/{name}"], name
        assert topic.latched == (f"~/{name}" in latched), name

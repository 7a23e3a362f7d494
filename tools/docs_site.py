"""MkDocs' hook: what the documentation takes from the code, so that it cannot go stale.

- Pages of their own: README (the start), CONTRIBUTING, SECURITY, CODE_OF_CONDUCT, and the cards of
  the weights.
- `<!-- generated: NAME -->` in a page becomes the table or picture that GENERATED has.
- Formulas become MathML, which browsers draw without a script.
- In docstrings, lines such as `depth: (H, W) float32, metres` become lists.
"""

from __future__ import annotations

import ast
import html
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

try:
    import tomllib  # type: ignore[import-not-found, unused-ignore]
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef, import-not-found, unused-ignore]
import griffe
import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from instaseg_ros import cli
from instaseg_ros.config import Config, Parameter, parameters, plain
from instaseg_ros.config.options import METHODS, options_of
from instaseg_ros.config.options.shared import MethodConfig
from instaseg_ros.config.options.training import TrainConfig
from instaseg_ros.ros.parameter_file import constraint, node_parameters

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "instaseg_ros"
# Files outside docs/ that are pages: path in the repository -> path in the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    **{f"instaseg_ros/weights/{p.name}": f"weights/{p.name}" for p in PACKAGE.glob("weights/*.md")},
}
PICTURE_WIDTH, LAYER_HEIGHT, BOX_HEIGHT = 800, 44, 30  # pixels, of the picture of the names


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add PAGES, with their links as they are in the site."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = text.replace("](docs/", "](").replace("](../../docs/", "](../")
        files.append(File.generated(config, page, content=_relinked(text, "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what is generated; links to PAGES lead there."""
    filled = re.sub(r"<!-- generated: (.+?) -->", lambda found: _generated(found[1]), markdown)
    return _relinked(filled, "](../")


class NamedLines(griffe.Extension):
    """Make lists of the lines that describe parameters or fields by name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None or not isinstance(obj, (griffe.Class, griffe.Function)):
            return
        names = {*obj.members, *(one.name for one in getattr(obj, "parameters", ()))}
        lines: list[str] = []
        for line in obj.docstring.value.splitlines():
            head, colon, rest = line.partition(": ")
            if colon and names.issuperset(head.split(", ")):
                first = not any(one.startswith("- `") for one in lines)
                lines += [""] * first + [f"- `{head}`: {rest}"]
            else:
                lines.append(line)
        obj.docstring.value = "\n".join(lines)


def on_page_content(content: str, **_: Any) -> str:
    """Draw the formulas, which arithmatex has marked."""

    def drawn(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return str(convert(html.unescape(found["formula"]), display=display))

    marked = r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<formula>.+?)\\[)\]]</(?P=tag)>'
    return re.sub(marked, drawn, content, flags=re.DOTALL)


def _relinked(text: str, before: str) -> str:
    for source, page in PAGES.items():
        text = text.replace(f"{before}{source}", f"]({page}")
    return text


def _generated(name: str) -> str:
    if name not in GENERATED:
        raise PluginError(f"nothing generated is called '{name}'; known: {', '.join(GENERATED)}")
    return GENERATED[name]()


def _parameter_tables(leaves: Iterable[Parameter]) -> str:
    """A table for each group."""
    groups: dict[str, list[Parameter]] = {}
    for leaf in leaves:
        groups.setdefault(leaf.name.rpartition(".")[0], []).append(leaf)
    return "\n".join(
        (f"### `{group}`\n\n" if group else "") + _parameter_table(held)
        for group, held in groups.items()
    )


def _parameter_table(leaves: Iterable[Parameter]) -> str:
    lines = ["| parameter | | default | values | live |", "|---|---|---|---|---|"]
    for leaf in leaves:
        default = yaml.safe_dump(plain(leaf.value), default_flow_style=True).partition("\n")[0]
        words = (f"`{leaf.name}`", leaf.help, f"`{default}`", constraint(leaf), "yes" * leaf.live)
        lines.append("| " + " | ".join(word.replace("|", r"\|") for word in words) + " |")
    return "\n".join(lines) + "\n\n"


def _decode_tables() -> str:
    """The options of decoding, method by method."""
    return "\n".join(
        f"### `decode` of `{method}`\n\n"
        + _parameter_table(parameters(options_of(method).DecodeConfig(), "decode."))
        for method in METHODS
    )


def _training_tables() -> str:
    """What every training has, then what the loss and the network of each method add."""
    text = _parameter_tables(parameters(TrainConfig(), "train."))
    text += "### `method`\n\n" + _parameter_table(parameters(MethodConfig(), "method."))
    common = {f.name for f in (*fields(TrainConfig), *fields(MethodConfig))}
    for method in METHODS:
        options = options_of(method)
        leaves = [
            *parameters(options.LossConfig(), "train."),
            *parameters(options.ShapeConfig(), "method."),
        ]
        own = [leaf for leaf in leaves if leaf.name.split(".")[1] not in common]
        text += f"### Of `{method}` alone\n\n" + _parameter_table(own)
    return text


def _layers() -> list[list[str]]:
    """Names of the package's folders and modules, layer by layer from the top, as import-linter
    has them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def _files_of(name: str) -> list[Path]:
    folder = PACKAGE / name
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _imports(name: str) -> list[str]:
    """The other folders and modules that this one imports."""
    names: set[str] = set()
    for path in _files_of(name):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
                parts = (node.module or "").split(".")[1:]
                names |= {parts[0]} if parts else {alias.name for alias in node.names}
    return sorted((names & {name for layer in _layers() for name in layer}) - {name})


def _purpose(name: str) -> str:
    """The first sentence of its docstring."""
    folder = PACKAGE / name
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:])\s", " ".join(text.partition("\n\n")[0].split()))[0].rstrip(":")


def _layers_picture() -> str:
    """The layers, the highest on top; a box's tooltip says what it is for and what it imports."""
    layers = _layers()
    shapes = [shape for row, names in enumerate(layers) for shape in _layer_shapes(names, row)]
    return (
        f'<div class="layers"><svg viewBox="0 0 {PICTURE_WIDTH} {len(layers) * LAYER_HEIGHT}" '
        f'role="img" aria-label="The {len(layers)} layers of instaseg_ros">'
        + "".join(shapes)
        + "</svg></div>"
    )


def _layer_shapes(names: list[str], row: int) -> Iterator[str]:
    width, y = PICTURE_WIDTH / len(names), row * LAYER_HEIGHT
    for place, name in enumerate(names):
        x = place * width
        imported = ", ".join(_imports(name)) or "none of these"
        yield (
            f"<g><title>{html.escape(f'{name}: {_purpose(name)} Imports {imported}.')}</title>"
            f'<rect x="{x + 3:.1f}" y="{y + 7}" width="{width - 6:.1f}" height="{BOX_HEIGHT}" '
            f'rx="4"/><text x="{x + width / 2:.1f}" y="{y + 27}">{name}</text></g>'
        )


def _layers_table() -> str:
    lines = ["| folder or module | | imports |", "|---|---|---|"]
    for layer in _layers():
        for name in layer:
            imported = ", ".join(_imports(name))
            lines.append(f"| `{name}` | {_purpose(name)} | {imported} |")
    return "\n".join(lines) + "\n"


def _api_examples() -> str:
    """The package's docstring, its examples as code."""
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))) or ""
    examples = re.compile(r"^>>>.*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
    return examples.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


def _verbs_table() -> str:
    lines = ["| verb | |", "|---|---|"]
    lines += [f"| [`{verb}`](#instaseg-{verb}) | {cli.VERBS[verb][1]} |" for verb in cli.VERBS]
    return "\n".join(lines) + "\n"


def _exit_codes_table() -> str:
    lines = ["| exit code | |", "|---|---|"]
    for code, meaning in cli.EXIT_CODES.items():
        lines.append(f"| {code} | {meaning} |")
    return "\n".join(lines) + "\n"


def _help_of_verbs() -> str:
    """What --help prints, as wide as a page."""
    with patch.dict(os.environ, {"COLUMNS": "96", "NO_COLOR": "1"}):
        return "\n".join(
            f"### `instaseg {verb}`\n\n```text\n{cli.help_of(verb)}```\n" for verb in cli.VERBS
        )


GENERATED: dict[str, Callable[[], str]] = {
    "parameters of the node": lambda: _parameter_tables(
        leaf for leaf in node_parameters(Config()) if not leaf.name.startswith("decode.")
    ),
    "parameters of decoding": _decode_tables,
    "options of training": _training_tables,
    "examples of the API": _api_examples,
    "exit codes": _exit_codes_table,
    "help of the verbs": _help_of_verbs,
    "picture of the layers": _layers_picture,
    "table of the layers": _layers_table,
    "verbs": _verbs_table,
}

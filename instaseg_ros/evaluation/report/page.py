"""One self-contained HTML page of an evaluation: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from instaseg_ros.evaluation.summary import COLUMNS, table_cells

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f5f6f8; color: #24292f; font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 0 0 2px; }
p { margin: 0 0 10px; max-width: 80ch; }
.muted, figcaption { color: #5b636d; font-size: 13px; }
.remark { background: #fff4df; border-left: 4px solid #c99a16; padding: 8px 12px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(120px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, .card, pre { background: white; border: 1px solid #e3e6ea; border-radius: 8px;
  padding: 12px 16px; }
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 16px; }
.card svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; background: white; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: 5px 14px; text-align: right; border-bottom: 1px solid #e3e6ea; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
tr.total td { font-weight: 600; border-top: 2px solid #9aa1a9; }
figure { margin: 0 0 18px; }
figure img { width: 100%; border-radius: 6px; display: block; margin-bottom: 4px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px;
  margin: 0 4px 0 12px; }
pre { overflow: auto; }
"""


class Card(NamedTuple):
    """A figure or table, as HTML of ours, and what it shows."""

    title: str
    html: str
    caption: str


class Picture(NamedTuple):
    """A frame: JPEG bytes, and a line about it."""

    jpeg: bytes
    caption: str


class Gallery(NamedTuple):
    """Pictures under a heading, with one sentence and a key of colours (name: CSS colour)."""

    title: str
    text: str
    key: Mapping[str, str]
    pictures: Sequence[Picture]


def page(
    title: str,
    subtitle: str,
    remarks: Sequence[str],
    tiles: Mapping[str, str],
    summary: Mapping[str, Any],
    cards: Sequence[Card],
    galleries: Sequence[Gallery],
    config: str,
) -> str:
    """The page. tiles: value by name. summary: of `summarize`. config: YAML."""
    parts = [
        f"<h1>{escape(title)}</h1><p class='muted'>{escape(subtitle)}</p>",
        *(f"<p class='remark'>{escape(remark)}</p>" for remark in remarks),
        "<div class='tiles'>",
        *(f"<div class='tile'><b>{escape(v)}</b>{escape(k)}</div>" for k, v in tiles.items()),
        "</div><h2>By class</h2>",
        table([["class", *COLUMNS.values()], *_class_rows(summary)], total=True),
        "<p class='muted' style='margin-top:10px'>AP, AP50: Cityscapes' average precision over IoU "
        "0.5 to 0.95 and at 0.5. PQ: panoptic quality. DSB50: TP / (TP + FP + FN) at IoU 0.5. SBD: "
        "symmetric best Dice. |DiC|: mean absolute difference in count.</p>",
        "<h2>Where it is lost</h2><div class='cards'>",
        *map(_card, cards),
        "</div>",
        *map(_gallery, galleries),
        "<h2>Configuration</h2>",
        f"<details><summary>every parameter</summary><pre>{escape(config)}</pre></details>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _class_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [[name, *table_cells(row)] for name, row in summary["per_class"].items()]
    return [*rows, ["mean", *table_cells(dict(summary))]]


def table(rows: Sequence[Sequence[str]], total: bool = False) -> str:
    """HTML of rows of cells, of which the first is the heading and the last maybe a total."""
    heading, *body = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    lines = [f"<tr>{heading.replace('td>', 'th>')}</tr>", *(f"<tr>{row}</tr>" for row in body)]
    if total:
        lines[-1] = lines[-1].replace("<tr>", "<tr class='total'>")
    return f"<div class='wide'><table>{''.join(lines)}</table></div>"


def _card(card: Card) -> str:
    return (
        f"<div class='card'><h3>{escape(card.title)}</h3>{card.html}"
        f"<p class='muted'>{escape(card.caption)}</p></div>"
    )


def _gallery(gallery: Gallery) -> str:
    key = "".join(
        f"<span class='key' style='background:{color}'></span>{escape(name)}"
        for name, color in gallery.key.items()
    )
    figures = "".join(
        f"<figure><img alt='{escape(picture.caption)}' src='data:image/jpeg;base64,"
        f"{base64.b64encode(picture.jpeg).decode()}'>"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in gallery.pictures
    )
    return f"<h2>{escape(gallery.title)}</h2><p>{escape(gallery.text)}{key}</p>{figures}"

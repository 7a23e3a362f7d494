"""Finds message types by name: their classes, definitions and hashes, as installed here."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

NAME = re.compile(r"([a-z]\w*)/msg/([A-Z]\w*)")  # the package, the type
NESTED = re.compile(r"(\w+)/(\w+)")  # in a field's type, such as sequence<std_msgs/Header, 3>
BETWEEN = f"\n{'=' * 80}\nMSG: "  # two definitions, in a recording


@functools.cache
def message_class(msgtype: str) -> Any | None:
    """The class of `sensor_msgs/msg/Image` and the like; None if it is not installed, or no
    message."""
    # Recordings are not trusted: nothing is imported but packages that define messages.
    if _folder(msgtype) is None:
        return None
    package, _, name = msgtype.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


def type_hash(msgtype: str) -> str:
    """The hash of an installed type's definition, as in `RIHS01_...`; empty in Humble, which has
    none."""
    try:
        described = json.loads(_read(msgtype, "json"))
        hashes = {one["type_name"]: one["hash_string"] for one in described["type_hashes"]}
        return str(hashes[msgtype])
    except (OSError, KeyError, TypeError, ValueError):
        return ""


def definition(msgtype: str) -> str:
    """The text of an installed type's definition and those of its fields' types, in the form of
    rosbag2's recordings; empty if one is not installed as text."""
    try:
        texts = {name: _read(name, "msg") for name in dict.fromkeys(_with_nested(msgtype))}
    except OSError:
        return ""
    first = texts.pop(msgtype)
    return first + "".join(
        f"{BETWEEN}{name.replace('/msg/', '/')}\n{text}" for name, text in texts.items()
    )


def _with_nested(msgtype: str) -> Iterator[str]:
    yield msgtype
    found = message_class(msgtype)
    fields = found.get_fields_and_field_types() if found else {}
    for kind in fields.values():
        for package, name in NESTED.findall(kind):
            yield from _with_nested(f"{package}/msg/{name}")


def _read(msgtype: str, suffix: str) -> str:
    """An installed file about a type. Raises FileNotFoundError if there is none."""
    folder = _folder(msgtype)
    if folder is None:
        raise FileNotFoundError(msgtype)
    return (folder / f"{msgtype.rpartition('/')[2]}.{suffix}").read_text("utf-8")


def _folder(msgtype: str) -> Path | None:
    """The folder with the definitions of the type's package; None if that is not installed."""
    found = NAME.fullmatch(msgtype)
    if not found:
        return None
    # Wheels of ROS install below Python's own prefix, and set no variable.
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(":")), sys.prefix]
    folders = [Path(prefix, "share", found[1], "msg") for prefix in prefixes]
    return next((folder for folder in folders if folder.is_dir()), None)

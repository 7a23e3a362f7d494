"""Recognises recordings among files and folders, by name only."""

from __future__ import annotations

from pathlib import Path

BAG_SUFFIXES = (".mcap", ".db3")


def holds_recording(path: Path) -> bool:
    """Whether `path` is the directory of a recording."""
    return path.is_dir() and any(
        file.name == "metadata.yaml" or is_storage_file(file) for file in path.iterdir()
    )


def is_storage_file(path: Path) -> bool:
    """Whether `path` has the name of a recording's file, compressed or not."""
    name = path.name.lower()
    is_named_so = name.removesuffix(".zstd").endswith(BAG_SUFFIXES)
    return is_named_so and not name.startswith(".") and not path.is_dir()

"""Finds the shipped recipes of trainings, in a checkout and after an installation."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from instaseg_ros.errors import ConfigError, nearest

SHARE = "share/instaseg_ros/config/train"


def recipe(name: str) -> Path:
    """The file of a shipped recipe, such as `finetune`. Raises ConfigError if there is none."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(":"), sys.prefix]
    prefixes += filter(None, [site.getuserbase()])
    folders = [Path(__file__).parents[2] / "config" / "train"]
    folders += [Path(prefix) / SHARE for prefix in prefixes if prefix]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    near = nearest(name, known)
    hint = f"; did you mean '{near}'?" if near else ""
    where = "" if known else f"; looked in {', '.join(map(str, folders))}"
    raise ConfigError(f"recipe {name}: expected one of {', '.join(known) or 'none'}{hint}{where}")

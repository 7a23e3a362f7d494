"""What setup.py declares."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import setuptools

ROOT = Path(__file__).parents[2]


@cache
def setup_arguments(*command: str) -> dict[str, Any]:
    """What setup.py tells setuptools when called with a command."""
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        with patch.object(setuptools, "setup") as setup, patch.object(sys, "argv", ["", *command]):
            code = compile(Path("setup.py").read_text(), "setup.py", "exec")
            exec(code, {"__file__": "setup.py"})
    finally:
        os.chdir(here)
    return dict(setup.call_args.kwargs)

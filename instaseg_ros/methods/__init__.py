"""The methods, one paper per file; their options are in `config.options`."""

from __future__ import annotations

import pkgutil
from typing import Any, cast

from instaseg_ros.config.options import METHODS, options_of
from instaseg_ros.methods.base import BACKGROUND, Method, Targets

__all__ = ["BACKGROUND", "METHODS", "Method", "Targets", "make_method"]


def make_method(name: str, n_classes: int, *shape: Any, **options: Any) -> Method:
    """Make the method called `name`. Raises ConfigError for an unknown one.

    shape, options: the fields that its `ShapeConfig` adds to `MethodConfig`, in order or by name;
        the paper's values by default.
    """
    return cast(Method, pkgutil.resolve_name(options_of(name).METHOD)(n_classes, *shape, **options))

"""The methods, one paper to a file; what they can be told stands in `options`."""

from __future__ import annotations

import pkgutil
from typing import Any, cast

from instaseg_ros.config.options import METHODS, options_of
from instaseg_ros.methods.base import BACKGROUND, Method, Targets

__all__ = ["BACKGROUND", "METHODS", "Method", "Targets", "make_method"]


def make_method(name: str, n_classes: int, *shape: Any, **options: Any) -> Method:
    """The method called `name`. Raises ConfigError for an unknown one.

    shape, options: what its `ShapeConfig` adds to `MethodConfig`, in order or by name; left out:
        the paper's.
    """
    return cast(Method, pkgutil.resolve_name(options_of(name).METHOD)(n_classes, *shape, **options))

"""Numba kernels compiled all at once and cached on disk: none is left for when frames come in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba

_declared: list[tuple[Any, tuple[str, ...]]] = []  # not compiled yet
_lock = threading.Lock()


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Any]:
    """Declare a compiled function by all its signatures; it runs without Python's lock.

    Arrays declared strided (`[:,:]`) take contiguous ones (`[:,::1]`) too.
    """

    def declare(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            compiled = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package nor the user's cache directory is writable
            compiled = numba.njit(**options)(function)
        _declared.append((compiled, signatures))
        return compiled

    return declare


def compile_all() -> None:
    """Compile the kernels declared so far, or load them from numba's cache. Quick when done."""
    with _lock:
        while _declared:
            compiled, signatures = _declared.pop()
            for signature in signatures:
                compiled.compile(signature)
            compiled.disable_compile()

"""Numba kernels compiled all at once and cached on disk: none is left for when frames come in."""

from __future__ import annotations

import hashlib
import linecache
import logging
import os
import pickle
import platform
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

from instaseg_ros.files import Cache

log = logging.getLogger(__name__)
_declared: list[tuple[Any, tuple[str, ...]]] = []  # not compiled yet
_lock = threading.Lock()


def kernel(*signatures: str) -> Callable[[Callable[..., Any]], Any]:
    """Declare a compiled function by all its signatures; it runs without Python's lock.

    Arrays declared strided (`[:,:]`) take contiguous ones (`[:,::1]`) too.
    """

    def declare(function: Callable[..., Any]) -> Any:
        compiled = cached_njit(nogil=True, error_model="numpy")(function)
        _declared.append((compiled, signatures))
        return compiled

    return declare


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(cache=True, **options)`, with this package's cache in the place of numba's.

    Numba's own stops the program where a file of it is torn, and runs machine code of whoever wrote
    it.
    """

    def declare(function: Callable[..., Any]) -> Any:
        compiled: Any = numba.njit(**options)(function)
        if hasattr(compiled, "_cache"):  # not with NUMBA_DISABLE_JIT
            compiled._cache = _KernelCache(function)
        return compiled

    return declare


def compile_all() -> None:
    """Compile the kernels declared so far, or load them from the cache. Quick when done."""
    with _lock:
        while _declared:
            compiled, signatures = _declared.pop()
            for signature in signatures:
                compiled.compile(signature)
            compiled.disable_compile()


def _kept() -> Cache:
    """The kernels on disk: in the folder of the cache, or where numba's variable says."""
    return Cache("kernels", os.environ.get("NUMBA_CACHE_DIR"))


class _KernelCache:
    """What numba's dispatcher asks of its cache, for one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.cache_path = None  # numba's statistics show it

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The CompileResult for these argument types, or None."""
        target.refresh()
        content = _kept().read(self._name(signature, target.codegen()))
        if content is None:
            return None
        try:
            return CompileResult._rebuild(target, *pickle.loads(content))
        except Exception as error:  # as we wrote it, and still not what this numba takes
            log.info("kernel %s is compiled anew: %r", self._function.__qualname__, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a CompileResult."""
        movable = all(lifted.can_cache for lifted in compiled.lifted)
        if movable and not compiled.library.has_dynamic_globals:  # they hold addresses
            name = self._name(signature, compiled.codegen)
            _kept().write(name, dumps(compiled._reduce()))

    def _name(self, signature: Any, codegen: Any) -> str:
        """Of the kernel's file: it says all that the machine code is made from."""
        versions = platform.python_version(), numba.__version__, __debug__
        settings: Any = numba.config
        options = settings.BOUNDSCHECK, settings.OPT
        digest = hashlib.sha256(repr((versions, options, codegen.magic_tuple())).encode())
        function = self._function
        digest.update(f"{function.__module__}.{function.__qualname__} {signature}".encode())
        digest.update(function.__code__.co_code)
        for lines in _sources(function):
            digest.update("".join(lines).encode())
        return f"{function.__name__}-{digest.hexdigest()[:24]}"


def _sources(function: Callable[..., Any]) -> list[list[str]]:
    """The source of a function's module, and of those whose compiled functions or constants it may
    use, at any depth."""
    own = function.__module__.partition(".")[0]
    found: dict[str, list[str]] = {}
    modules = [function.__globals__]
    while modules:
        module = modules.pop()
        if module["__name__"] in found:
            continue
        # linecache reads modules of archives too; what is typed in has no file
        found[module["__name__"]] = linecache.getlines(module.get("__file__") or "", module)
        for value in module.values():
            if isinstance(value, Dispatcher):
                modules.append(value.py_func.__globals__)
            elif isinstance(value, ModuleType) and value.__name__.startswith(f"{own}."):
                modules.append(vars(value))
    return [found[name] for name in sorted(found)]

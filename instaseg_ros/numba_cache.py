"""Compiles numba kernels all at once and caches them on disk, so that no frame waits for one."""

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
    """Declare a compiled function with all its signatures; it runs without the GIL.

    Arrays declared strided (`[:,:]`) take contiguous ones (`[:,::1]`) too.
    """

    def declare(function: Callable[..., Any]) -> Any:
        compiled = cached_njit(nogil=True, error_model="numpy")(function)
        _declared.append((compiled, signatures))
        return compiled

    return declare


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(cache=True, **options)`, with this package's cache instead of numba's.

    Numba's own cache stops the program when a file is damaged, and runs machine code no matter who
    wrote it.
    """

    def declare(function: Callable[..., Any]) -> Any:
        compiled: Any = numba.njit(**options)(function)
        if hasattr(compiled, "_cache"):  # not with NUMBA_DISABLE_JIT
            compiled._cache = _KernelCache(function)
        return compiled

    return declare


def compile_all() -> None:
    """Compile the kernels declared so far, or load them from the cache. Fast if already done."""
    with _lock:
        while _declared:
            compiled, signatures = _declared.pop()
            for signature in signatures:
                compiled.compile(signature)
            compiled.disable_compile()


def _kept() -> Cache:
    """The kernels on disk: in the cache folder, or where numba's variable says."""
    return Cache("kernels", os.environ.get("NUMBA_CACHE_DIR"))


class _KernelCache:
    """The cache interface that numba's dispatcher expects, for one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.cache_path = None  # shown by numba's statistics

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The CompileResult for these argument types, or None."""
        target.refresh()
        content = _kept().read(self._name(signature, target.codegen()))
        if content is None:
            return None
        try:
            return CompileResult._rebuild(target, *pickle.loads(content))
        except Exception as error:  # intact, yet this numba does not accept it
            log.info("kernel %s is recompiled: %r", self._function.__qualname__, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a CompileResult."""
        movable = all(lifted.can_cache for lifted in compiled.lifted)
        if movable and not compiled.library.has_dynamic_globals:  # they hold addresses
            name = self._name(signature, compiled.codegen)
            _kept().write(name, dumps(compiled._reduce()))

    def _name(self, signature: Any, codegen: Any) -> str:
        """The name of the kernel's file; it depends on everything the machine code is made from."""
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
    """The sources of a function's module and of the modules whose compiled functions or constants
    it may use, at any depth."""
    own = function.__module__.partition(".")[0]
    found: dict[str, list[str]] = {}
    modules = [function.__globals__]
    while modules:
        module = modules.pop()
        if module["__name__"] in found:
            continue
        # linecache also reads modules in archives; interactive code has no file
        found[module["__name__"]] = linecache.getlines(module.get("__file__") or "", module)
        for value in module.values():
            if isinstance(value, Dispatcher):
                modules.append(value.py_func.__globals__)
            elif isinstance(value, ModuleType) and value.__name__.startswith(f"{own}."):
                modules.append(vars(value))
    return [found[name] for name in sorted(found)]

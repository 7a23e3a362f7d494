"""Evaluates recordings with Ray: on this machine, or on a cluster.

Recordings are opened by tasks of one core. Then each worker, an actor with a GPU or some cores of
its own, makes the pipeline once and evaluates task after task. Ray starts again what dies.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import instaseg_ros
from instaseg_ros.errors import ConfigError, InputError, InstasegError, require
from instaseg_ros.files import cache_dir
from instaseg_ros.fleet.schedule import Machine, Share, share_of
from instaseg_ros.fleet.source import Source
from instaseg_ros.fleet.work import (
    BROKEN,
    Broken,
    Opened,
    Part,
    Recipe,
    Survey,
    Task,
    evaluate,
    survey,
)

EXTRA = "scale"
RETRIES = 2  # of what died with its worker
POLL_S, TELL_S = 0.5, 1.0  # how often progress is asked for, and told
STORE_BYTES = 1 << 30  # for results on their way; more goes to disk
QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
ON_THIS_MACHINE = {
    "address": "local",
    "object_store_memory": STORE_BYTES,
    "_node_ip_address": "127.0.0.1",
}
CONNECT_S = 10.0

log = logging.getLogger(__name__)


def _ray() -> Any:
    """The package, which takes seconds to import."""
    return importlib.import_module("ray")


def _reachable(address: str) -> str:
    """The address of a cluster. Raises ConfigError if nobody listens there, for which Ray waits."""
    if address == "auto":
        return address
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 1 << 16) or "/" in host:
        raise ConfigError(f"--ray: expected HOST:PORT of a Ray cluster, or auto, got {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConfigError(f"--ray {address}: no cluster can be reached there: {error}") from error
    return address


class Unusable(NamedTuple):
    """Why no recording can be evaluated on a worker."""

    why: str


class Said(NamedTuple):
    """What a worker returns: the result, and the warnings that it has logged."""

    result: Any
    warnings: list[str]


class RayCrew:
    """Workers of Ray; to be used as a context, which starts and ends them.

    recipe: of the pipeline; None: the results were recorded. workers: how many; None: one for each
    GPU, or for some cores. address: of a cluster; None: this machine, whose Ray ends with the
    context. Entering raises ConfigError for a cluster that cannot be used or is too small.
    """

    def __init__(self, recipe: Recipe | None, workers: int | None, address: str | None) -> None:
        require("ray", EXTRA, "evaluating with several workers")
        if recipe is not None and ":" in recipe.config.runtime.device:
            raise ConfigError(
                f"runtime.device: expected auto, cpu or cuda, as each worker is given its GPU, got "
                f"{recipe.config.runtime.device}"
            )
        self._recipe, self._wanted, self._address = recipe, workers, address
        self.workers = workers or 1
        self.may_cut = recipe is None or not recipe.remembers

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return None if self._recipe is None else self._recipe.class_names

    def __enter__(self) -> RayCrew:
        ray, options = _ray(), dict(ON_THIS_MACHINE)
        if self._address is None:
            options["num_cpus"] = len(os.sched_getaffinity(0))
        else:
            options = {"address": _reachable(self._address)}
        # Copies of remote recordings have one path everywhere.
        environment = {"env_vars": {"INSTASEG_CACHE": str(cache_dir().resolve())}}
        try:
            ray.init(**options, **QUIET, runtime_env=environment)
        except Exception as error:  # of many kinds; `Exception` itself if it starts too slowly
            where = "on this machine" if self._address is None else f"at {self._address}"
            raise ConfigError(f"--workers: Ray cannot be used {where}: {error}") from error
        try:
            self._share = self._shared(ray.nodes())
        except BaseException:
            ray.shutdown()
            raise
        self.workers = self._share.workers
        log.info("%d workers, each of %d cores and %g GPUs", *self._share)
        return self

    def _shared(self, nodes: Sequence[dict[str, Any]]) -> Share:
        """What each worker gets of Ray's nodes."""
        there = [node["Resources"] for node in nodes if node["Alive"]]
        machines = [Machine(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in there]
        gpus = self._recipe is not None and self._recipe.config.runtime.device != "cpu"
        return share_of(machines, self._wanted, gpus)

    def __exit__(self, *_: object) -> None:
        _ray().shutdown()

    def survey(self, sources: Sequence[Source]) -> Iterator[tuple[Survey, Any] | Broken]:
        ray = _ray()
        ask = ray.remote(_survey).options(num_cpus=1, max_retries=RETRIES, num_returns=2)
        asked = [ask.remote(source, instaseg_ros.__version__) for source in sources]
        for said, opened in asked:
            found = _got(said)
            yield found if isinstance(found, Broken) else (found, opened)

    def opened(self, one: Any) -> Opened:
        return cast(Opened, _ray().get(one))

    def evaluate(
        self, tasks: Sequence[Task], opened: Sequence[Any], progress: Callable[[int], object]
    ) -> Iterator[tuple[int, Part | Broken]]:
        ray = _ray()
        tally = ray.remote(_Tally).options(num_cpus=0).remote()
        worker = ray.remote(_Worker).options(
            num_cpus=self._share.cores,
            num_gpus=self._share.gpus,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )
        recipe = ray.put(self._recipe)
        count = min(self.workers, len(tasks))
        free = [worker.remote(self._share.cores) for _ in range(count)]
        running: dict[Any, tuple[int, Any]] = {}
        left, broken, finished = list(enumerate(tasks)), set(), 0
        while left or running:
            while left and free:
                number, task = left.pop(0)
                if task.source.name not in broken:
                    one = free.pop(0)
                    asked = one.evaluate.remote(number, task, opened[number], recipe, tally)
                    running[asked] = number, one
            ready, _ = ray.wait(list(running), timeout=POLL_S)
            for reference in ready:
                number, one = running.pop(reference)
                free.append(one)
                finished += len(tasks[number].frames)
                found = _got(reference)
                if isinstance(found, Broken):
                    broken.add(tasks[number].source.name)
                yield number, found
            begun = [number for number, _ in running.values()]
            progress(finished + ray.get(tally.done.remote(begun)))


def _got(reference: Any) -> Any:
    """What a worker has returned, or Broken if it has died of it, again and again. Raises
    ConfigError if it is unusable, and what it has raised unforeseen."""
    ray = _ray()
    try:
        said: Said = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    except ray.exceptions.RayError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Broken(InputError(f"its worker died {RETRIES + 1} times: {first}"))
    for line in said.warnings:
        log.warning("%s", line)
    if isinstance(said.result, Unusable):
        raise ConfigError(said.result.why)
    return said.result


def _survey(source: Source, version: str) -> tuple[Said, Opened | None]:
    """In a task of Ray."""
    with _warnings() as lines:
        if version != instaseg_ros.__version__:
            why = f"a worker has instaseg_ros {instaseg_ros.__version__}, expected {version}"
            return Said(Unusable(why), lines), None
        try:
            found, opened = survey(source)
        except (*BROKEN, OSError) as error:
            return Said(Broken(error), lines), None
        except InstasegError as error:  # a package that is missing there
            return Said(Unusable(str(error)), lines), None
    return Said(found, lines), opened


class _Tally:
    """An actor that counts the frames done. What is done again is counted anew."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}

    def tell(self, task: int, done: int) -> None:
        self._done[task] = done

    def done(self, tasks: Sequence[int]) -> int:
        """The frames of these tasks."""
        return sum(self._done.get(task, 0) for task in tasks)


class _Worker:
    """An actor that evaluates with a pipeline of its own."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pipeline: Any = None

    def evaluate(
        self, number: int, task: Task, opened: Opened, recipe: Recipe | None, tally: Any
    ) -> Said:
        last = 0.0

        def progress(done: int) -> None:
            nonlocal last
            if time.monotonic() > last + TELL_S:
                last = time.monotonic()
                tally.tell.remote(number, done)

        with _warnings() as lines:
            try:
                if self._pipeline is None and recipe is not None:
                    self._pipeline = recipe.pipeline(self._threads)
                return Said(evaluate(task, opened, self._pipeline, progress), lines)
            except BROKEN as error:
                return Said(Broken(error), lines)
            except InstasegError as error:  # of the configuration, the weights, an engine, ...
                return Said(Unusable(str(error)), lines)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The lines that are logged within the block, as a worker's own log is read by nobody."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(instaseg_ros.__name__)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)

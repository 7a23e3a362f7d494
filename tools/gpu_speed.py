"""Stages of gpu_run.py that measure."""

from __future__ import annotations

import csv
import functools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import (
    CUDA,
    DEVICE,
    ROUNDS,
    WEIGHTS,
    Found,
    Size,
    by_shape,
    configured,
    going_on,
    median_ms,
    network_cost,
    sized,
    street,
    times_ms,
)
from numpy.typing import NDArray

from instaseg_ros.benchmarks.yardstick import FOREGROUND_SHARE, made_to_measure
from instaseg_ros.config import Config, merge
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Inferred, Pipeline
from instaseg_ros.preprocess import preprocess
from instaseg_ros.runtimes import Uploading
from instaseg_ros.runtimes.cuda_runtime import CudaRuntime
from instaseg_ros.training.trainer import train


def bench(found: Found) -> None:
    cases = [
        (profile, sized(height, width), batch)
        for (height, width), batch in (((1024, 2048), 1), ((512, 1024), 1), ((1024, 2048), 4))
        for profile in ("published", "fast", "lite")
    ]
    wrong: list[str] = []
    for profile, size, batch in cases:
        case = "{}_{}x{}_batch_{}".format(profile, *size, batch)
        with going_on(found, case, wrong):
            found(case, whole_frame(configured(WEIGHTS[profile]), size, batch))
    # cuDNN's choice of algorithms, which is a thread's own, may time the loading of the first ones.
    profile, size, batch = cases[0]
    case = "first_case_again"
    with going_on(found, case, wrong), ThreadPoolExecutor(1) as pool:
        again = pool.submit(whole_frame, configured(WEIGHTS[profile]), size, batch)
        found(case, again.result())
    assert not wrong, f"failed: {', '.join(wrong)}"


def whole_frame(config: Config, size: Size, batch: int) -> dict[str, Any]:
    """Times of a frame from camera image to labels in host memory, and of its parts, each waited
    for."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    pipeline = Pipeline(config)
    frames = [Frame(image, 0, f"camera {n}") for n, image in enumerate(street(size, batch))]
    results = pipeline.process(frames)
    total = sorted(times_ms(lambda: pipeline.process(frames), ROUNDS))
    runtime, method = pipeline.runtime, pipeline.method
    pixels, _ = preprocess([f.image for f in frames], config.input, pipeline.checkpoint.stride)
    row: dict[str, Any] = {
        "precision": runtime.precision,
        "instances": [len(result.instances) for result in results],
        "total_ms": total[len(total) // 2],
        "total_p99_ms": total[int(0.99 * len(total))],
        "upload_and_network_ms": median_ms(lambda: runtime(pixels), ROUNDS),
    }
    if isinstance(runtime, Uploading):
        row["upload_ms"] = median_ms(lambda: runtime.upload(pixels), ROUNDS)
    outputs = runtime(pixels)
    row["decode_ms"] = median_ms(lambda: method.decode(outputs, config.decode), ROUNDS)
    foreground = round(FOREGROUND_SHARE * size[0] * size[1])
    shape = len(pipeline.class_names), pipeline.checkpoint.method_config.n_sigma
    for objects in (30, 300):
        made = made_to_measure(*size, *shape, objects, foreground)
        made = {k: v.to(DEVICE).repeat(batch, 1, 1, 1) for k, v in made.items()}
        row[f"decode_{objects}_objects_ms"] = median_ms(
            functools.partial(method.decode, made, config.decode), ROUNDS
        )
    labels = torch.zeros(batch, *size, dtype=torch.int16, device=DEVICE)
    host = torch.empty(labels.shape, dtype=labels.dtype, pin_memory=CUDA)
    row["download_ms"] = median_ms(lambda: host.copy_(labels, non_blocking=True), ROUNDS)
    if isinstance(runtime, CudaRuntime):
        row["forms_ms"] = by_shape(runtime)
        row["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    cost = network_cost(pipeline.checkpoint.network(), pixels.shape, runtime.precision)
    row["network_gb"], row["network_gflop"] = cost.n_bytes / 1e9, cost.operations / 1e9
    return row


def profile(found: Found) -> None:
    pipeline = Pipeline(configured("street-synthetic"))
    frames = [Frame(street(sized(1024, 2048))[0])]
    for _ in range(6):
        pipeline.process(frames)
    count = 5
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if CUDA else []
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(count):
            pipeline.process(frames)
        if CUDA:
            torch.cuda.synchronize()
    rows = [
        {
            "name": event.key[:120],
            "calls": event.count / count,
            "device_us": event.self_device_time_total / count,
            "cpu_us": event.self_cpu_time_total / count,
        }
        for event in profiler.key_averages()
    ]
    longest = sorted(rows, key=lambda row: row["device_us" if CUDA else "cpu_us"], reverse=True)
    for kind in ("device_us", "cpu_us"):
        found(f"frame_{kind}", sum(row[kind] for row in rows))
    found("top_40_of_a_frame", longest[:40])


def threads(found: Found) -> None:
    """As in the node, one thread infers the next frame while another finishes the last."""
    count, kept = (300, 8) if CUDA else (12, 2)
    pipeline = Pipeline(configured("street-synthetic"))
    images = [street(size, kept) for size in (sized(512, 1024), sized(256, 512))]
    frames = [Frame(images[n % 2][n // 2 % kept]) for n in range(count)]
    before = pipeline.config
    after = merge(
        before,
        {"decode.min_pixels": 400 if CUDA else 10, "decode.foreground_threshold": 0.3},
    )

    def infer(number: int) -> Inferred:
        pipeline.reconfigure(before if number < count // 2 else after)
        return pipeline.infer([frames[number]])

    def labels(inferred: Inferred) -> NDArray[np.uint16]:
        (result,) = pipeline.finish(inferred)
        return result.instances.labels

    def one_thread() -> list[NDArray[np.uint16]]:
        return [labels(infer(number)) for number in range(count)]

    def two_threads() -> list[NDArray[np.uint16]]:
        with ThreadPoolExecutor(1) as pool:
            done = [pool.submit(labels, infer(number)) for number in range(count)]
            return [one.result() for one in done]

    one_thread()  # compiles, and records
    found("frames", count)
    expected = _per_second(found, "one_thread", count, one_thread)
    got = _per_second(found, "two_threads", count, two_threads)
    pairs = zip(got, expected, strict=True)
    differing = [n for n, (one, other) in enumerate(pairs) if not np.array_equal(one, other)]
    found("frames_differing", differing)
    found("pixels_of_instances", int(sum((one > 0).sum() for one in expected)))
    assert not differing, f"labels of {len(differing)} frames differ between one and two threads"


def _per_second(found: Found, name: str, count: int, function: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    value = function()
    found(f"{name}_frames_per_s", count / (time.perf_counter() - start))
    return value


def training(found: Found) -> None:
    """Training on the synthetic street, rendered by all cores but one."""
    height, width = (256, 512) if CUDA else (64, 64)
    settings = {
        "runtime.device": DEVICE.type,
        "train.seconds": 25.0 if CUDA else 5.0,
        "train.batch_size": 16 if CUDA else 2,
        "train.crop_height": height,
        "train.crop_width": width,
        "train.workers": -1 if CUDA else 0,
        "train.log_every": 10 if CUDA else 1,
        "train.validation_frames": 4 if CUDA else 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        train(merge(Config(), settings), Path(folder))
        with Path(folder, "log.csv").open(encoding="utf-8") as file:
            rows = [(int(row["step"]), float(row["seconds"])) for row in csv.DictReader(file)]
    (begun, since_s), (done, until_s) = rows[len(rows) // 4], rows[-1]
    found("batch", settings["train.batch_size"])
    found("crop", f"{height}x{width}")
    found("steps_per_s", (done - begun) / max(until_s - since_s, 1e-3))

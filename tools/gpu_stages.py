"""The stages of gpu_run.py, which runs each in its own process:

    python3 tools/gpu_stages.py NAME --found FILE

A stage writes its results to the file at once; units are in the names. A wrong result raises
AssertionError after everything is reported. On a CPU, sizes are an eighth.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_speed
import numpy as np
import torch
from gpu_common import (
    CUDA,
    DEVICE,
    N_CLASSES,
    WARM_UP,
    WEIGHTS,
    Found,
    NotRun,
    Remarks,
    by_shape,
    copy_bandwidth,
    going_on,
    need_cuda,
    product_rate,
    sized,
    street,
)
from numpy.typing import NDArray

from instaseg_ros.benchmarks.yardstick import FOREGROUND_SHARE, made_to_measure
from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.deploy import doctor
from instaseg_ros.methods import make_method
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.runtimes import open_runtime
from instaseg_ros.runtimes.aot_inductor import load_or_compile
from instaseg_ros.runtimes.cuda_network import PixelsToOutputs
from instaseg_ros.runtimes.cuda_runtime import CudaRuntime

ROOT = Path(__file__).resolve().parents[1]
WATCHED_S = 45  # limit for each tool of compute-sanitizer
# The largest difference from float32 on the CPU, as a share of a head's largest output.
TOLERANCES = {"fp32": 1e-3, "fp16": 0.03}
STEADY = 1e-5  # likewise, between replays: in float32, cuDNN may add in any order


def machine(found: Found) -> None:
    for name, version in doctor.versions().items():
        found(name, version)
    for package in ("triton", "numpy", "numba", "opencv-python-headless", "pytest"):
        try:
            found(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            found(package, "not installed")
    if CUDA:
        properties = torch.cuda.get_device_properties(DEVICE)
        found("cuda", torch.version.cuda)
        found("cudnn", torch.backends.cudnn.version())
        found("memory_gb", properties.total_memory / 1e9)
        found("l2_mb", getattr(properties, "L2_cache_size", 0) / 2**20)
        found("multiprocessors", properties.multi_processor_count)
    found("copy_gb_per_s", copy_bandwidth(DEVICE, 1 << 32 if CUDA else 1 << 22) / 1e9)
    found("bf16_product_tflop_per_s", product_rate(DEVICE, 8192 if CUDA else 64) / 1e12)


def decode(found: Found) -> None:
    """Consecutive calls: the first are launched, later ones recorded, then replayed."""
    method = make_method("spatial_embedding", N_CLASSES, 2)
    config = DecodeConfig(min_pixels=3)
    wrong = []
    for size in (sized(256, 512), (64, 128)):
        name = "{}x{}".format(*size)
        made = made_to_measure(*size, N_CLASSES, 2, 30, round(FOREGROUND_SHARE * size[0] * size[1]))
        there = {head: part.to(DEVICE) for head, part in made.items()}
        calls = []
        for _ in range(6):
            start = time.perf_counter()
            calls += method.decode(there, config)
            found(f"{name}_call_{len(calls)}_ms", (time.perf_counter() - start) * 1e3)
        (expected,) = method.decode(made, config)  # may compile kernels
        found(f"{name}_instances", [len(expected), *map(len, calls)])
        differing = [int((got.labels != expected.labels).sum()) for got in calls]
        found(f"{name}_pixels_differing", differing)
        few = max(differing) <= 1e-5 * expected.labels.size
        wrong += [name] * (not few or any(len(got) != len(expected) for got in calls))
    assert not wrong, f"labels differ from those of the CPU: {', '.join(wrong)}"


def decode_small(found: Found) -> None:
    """What compute-sanitizer watches: a call that launches its kernels."""
    method = make_method("spatial_embedding", N_CLASSES, 2)
    made = made_to_measure(64, 128, N_CLASSES, 2, 9, 3000)
    (got,) = method.decode({k: v.to(DEVICE) for k, v in made.items()}, DecodeConfig(min_pixels=3))
    assert len(got) == 9, len(got)


def sanitizer(found: Found) -> None:
    need_cuda()
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    tool = shutil.which("compute-sanitizer", path=places)
    if not tool:
        raise NotRun("compute-sanitizer is not on the path")
    decode_small(found)  # Triton's compiled kernels are kept for the processes that are watched
    troubles = []
    for kind in ("memcheck", "racecheck"):
        # Memory in torch's cache looks valid to memcheck.
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if kind == "memcheck" else {}
        command = [tool, "--tool", kind, "--error-exitcode", "9"]
        # torch and Triton ask the driver for functions that it need not have: no error of theirs.
        command += ["--report-api-errors", "no", sys.executable, __file__]
        try:
            done = subprocess.run(
                [*command, "decode_small"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=WATCHED_S,
                env={**os.environ, **uncached},
            )
        except subprocess.TimeoutExpired:
            found(kind, f"not done in {WATCHED_S} s")
            troubles.append(kind)
            continue
        print(done.stdout)
        summary = re.findall(r"SUMMARY: (.*)", done.stdout)
        found(kind, {"exit_code": done.returncode, "summary": summary[-1] if summary else ""})
        troubles += [kind] * (done.returncode != 0)
    assert not troubles, f"trouble found by {', '.join(troubles)}"


def forms(found: Found) -> None:
    """Each form of the network (eager torch, fused, ...) separately."""
    wrong: list[str] = []
    cases = [("published", "fp16"), ("published", "fp32"), ("lite", "fp16"), ("lite", "fp32")]
    for profile, precision in cases if CUDA else [("published", "fp32"), ("lite", "fp32")]:
        checkpoint = load_checkpoint(WEIGHTS[profile])
        image = street(sized(256, 512))[0][None]
        with torch.inference_mode():
            pixels = torch.from_numpy(image).permute(0, 3, 1, 2) / 255
            expected = checkpoint.network().eval()(pixels)
        config = RuntimeConfig(name="torch", device=DEVICE.type, precision=precision)
        for form in getattr(open_runtime(config, checkpoint), "forms", {"": None}):
            case = f"{profile}_{precision}_{form}".rstrip("_")
            with going_on(found, case, wrong):
                row = _one_form(open_runtime(config, checkpoint), form, image, expected)
                found(case, row)
                differs = not row["relative_difference"] <= TOLERANCES[precision]
                unsteady = not row["replays_difference"] <= STEADY
                wrong += [case] * differs + [f"{case} replays"] * unsteady
    assert not wrong, f"outputs are not those of float32: {', '.join(wrong)}"


def _one_form(
    runtime: Any, form: str, image: NDArray[np.uint8], expected: dict[str, torch.Tensor]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if isinstance(runtime, CudaRuntime):
        runtime.forms = {form: runtime.forms[form]}
        for _ in range(WARM_UP):
            runtime(image)
        row["ms"] = by_shape(runtime)
        row["fused"] = _verdicts(runtime.forms[form]())
    replays = [
        {head: output.float().cpu().clone() for head, output in runtime(image).items()}
        for _ in range(3)
    ]
    for name, reference in (("relative", expected), ("replays", replays[0])):
        row[f"{name}_difference"] = max(
            float((replay[head] - output).abs().max() / output.abs().max().clamp(min=1e-6))
            for replay in replays
            for head, output in reference.items()
        )
    return row


def _verdicts(network: Any) -> dict[str, bool]:
    """Whether bias, sum and ReLU are fused, by kind of convolution."""
    parts = network.modules() if isinstance(network, torch.nn.Module) else ()
    kinds = [getattr(part, "verdicts", None) or {} for part in parts]
    return {str(kind): verdict for one in kinds for kind, verdict in one.items()}


def gpu_test_files() -> list[Path]:
    """The files in which tests are marked `gpu`."""
    files = sorted(ROOT.glob("test/**/test_*.py"))
    return [path for path in files if "pytest.mark.gpu" in path.read_text("utf-8")]


def tests(found: Found) -> None:
    """Each file in its own process: after an illegal access CUDA refuses everything."""
    if importlib.util.find_spec("pytest") is None:
        raise NotRun("pytest is not installed; it can travel as wheels")
    files = sorted(gpu_test_files(), key=lambda path: path.name != "test_cuda.py")
    outcomes: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for path in files:
        command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
        command += ["-m", "gpu and not slow", "-o", "faulthandler_timeout=60", "--color=no"]
        process = subprocess.Popen(
            [*command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "COLUMNS": "200"}, cwd=ROOT,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            if outcome := re.search(r"::.* (PASSED|FAILED|ERROR|SKIPPED)\b.*\[", line):
                outcomes[outcome[1].lower()] += 1
                found("outcomes", dict(outcomes), said=False)
            if reason := re.match(r"(?:FAILED|ERROR) (\S+)(?: - (.*))?$", line):
                reasons[reason[1]] = reason[2] or ""
                found("failures", reasons)
        if process.wait() not in (0, 1, 5):  # 5: all were deselected
            found(f"{path.name}_exit_code", process.returncode)
            reasons.setdefault(path.name, "ended by itself")
    found("outcomes", dict(outcomes))
    assert not reasons, f"{len(reasons)} failed"


def compiled(found: Found) -> None:
    checkpoint = load_checkpoint("street-synthetic" if CUDA else "street-synthetic-fast")
    image = street(sized(512, 1024))[0][None]
    if CUDA:
        runtime = CudaRuntime(RuntimeConfig(device="cuda", compiled=True), checkpoint)
        for _ in range(4):
            runtime(image)
        found("ms", by_shape(runtime))
        assert any("compiled" in ms for ms in runtime.form_ms.values()), "it was left out: see log"
        return
    module = PixelsToOutputs(fold(checkpoint.network()))
    example = torch.from_numpy(image)
    with torch.inference_mode():
        got, expected = load_or_compile(module, example)(example), module(example)
    differences = [float((g - e).abs().max()) for g, e in zip(got, expected, strict=True)]
    found("largest_difference", max(differences))


STAGES: dict[str, Callable[[Found], None]] = {
    "machine": machine,
    "decode": decode,
    "decode_small": decode_small,
    "forms": forms,
    "tests": tests,
    "sanitizer": sanitizer,
    "bench": gpu_speed.bench,
    "profile": gpu_speed.profile,
    "threads": gpu_speed.threads,
    "training": gpu_speed.training,
    "compiled": compiled,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--found", type=Path, metavar="FILE", help="JSON of what was found")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    found = Found(args.found)
    found.write()
    logging.getLogger("instaseg_ros").addHandler(Remarks(found))
    try:
        STAGES[args.stage](found)
    except NotRun as reason:
        found.content = {"not_run": str(reason)}
        found.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tries every runtime and precision on this machine: does it run, is it right, how fast is it?"""

from __future__ import annotations

import dataclasses
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch

from instaseg_ros.deploy.versions import gpu, versions
from instaseg_ros.errors import InstasegError
from instaseg_ros.runtimes import choose, open_runtime
from instaseg_ros.runtimes.comparison import TOLERANCES, Comparison, Difference, timed_ms
from instaseg_ros.runtimes.torch_runtime import pick_device, pick_precision
from instaseg_ros.tables import text_table

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

CANDIDATES = (  # runtime, device, precision
    ("torch", "cpu", "fp32"),
    ("torch", "cpu", "bf16"),
    ("openvino", "cpu", "fp32"),
    ("openvino", "cpu", "bf16"),
    ("openvino", "cpu", "int8"),
    ("onnx", "cpu", "fp32"),
    ("torch", "cuda", "fp32"),
    ("torch", "cuda", "bf16"),
    ("torch", "cuda", "fp16"),
    ("onnx", "cuda", "fp16"),
    ("tensorrt", "cuda", "fp32"),
    ("tensorrt", "cuda", "fp16"),
    ("torch2trt", "cuda", "fp16"),
)


class Finding(NamedTuple):
    """The result for one candidate. difference: from torch in float32; trouble: why it cannot be
    used, empty if it can."""

    runtime: str
    device: str
    precision: str
    difference: Difference | None = None
    p50_ms: float = float("nan")
    trouble: str = ""


class Report(NamedTuple):
    """versions: {what: version, or why there is none}. auto: what `auto` chooses, and why."""

    versions: dict[str, str]
    findings: list[Finding]
    auto: Finding
    why: str


def examine(
    config: RuntimeConfig,
    checkpoint: Checkpoint,
    size: tuple[int, int],
    images: str | None,
    rounds: int,
) -> Report:
    """Try every candidate, building what it needs; then see what `auto` chooses.

    size: (height, width) pixels. images: frames for the comparison, None: the synthetic street.
    rounds: calls for the median time of one image.
    """
    comparison = Comparison(checkpoint, size, images)
    findings = []
    for name, device, precision in CANDIDATES:
        settings = dataclasses.replace(config, name=name, device=device, precision=precision)
        findings.append(_try(settings, checkpoint, comparison, rounds))
    settings = dataclasses.replace(config, name="auto")
    name, why = choose(settings, checkpoint, size)
    auto = _try(dataclasses.replace(settings, name=name), checkpoint, comparison, rounds)
    return Report({**versions(), "gpu": gpu()}, findings, auto, why)


def _try(
    config: RuntimeConfig, checkpoint: Checkpoint, comparison: Comparison, rounds: int
) -> Finding:
    finding = Finding(config.name, config.device, config.precision)
    try:
        device = pick_device(config.device).type
        emulated = config.precision == "bf16" and device == "cpu"
        if emulated and pick_precision("auto", torch.device("cpu")) != "bf16":
            return finding._replace(trouble="this CPU does not multiply bfloat16 in hardware")
        runtime = open_runtime(config, checkpoint)
        difference = comparison(runtime)
        p50_ms = median(timed_ms(lambda: runtime(comparison.frames[0]), rounds))
    except InstasegError as error:
        return finding._replace(trouble=str(error))
    except Exception as error:  # a broken driver or library must not hide the others
        return finding._replace(trouble=f"{type(error).__name__}: {error}")
    tolerance = TOLERANCES.get(runtime.precision, 0.0)
    trouble = ""
    if not difference.relative <= tolerance:
        trouble = f"differs from torch by more than {tolerance} (relative)"
    return Finding(config.name, device, runtime.precision, difference, p50_ms, trouble)


def table(report: Report) -> str:
    """The report as text for people."""
    lines = [f"{what:12}{version}" for what, version in report.versions.items()]
    rows = []
    for one in report.findings:
        measured = one.difference is not None
        said = "; ".join(filter(None, (str(one.difference) if measured else "", one.trouble)))
        ms = one.p50_ms if measured else None
        rows.append((one.runtime, one.device, one.precision, ms, said))
    headings = ("runtime", "device", "precision", "p50 ms", "difference from torch")
    lines += ["", text_table(headings, rows, ("", "", "", ".1f", ""))]
    auto = report.auto
    verdict = auto.trouble or f"agrees with torch ({auto.difference}), {auto.p50_ms:.1f} ms"
    lines.append(f"\nauto takes {auto.runtime} on {auto.device} in {auto.precision}: {report.why}")
    lines.append(f"it {verdict}" if auto.difference else f"it cannot be used: {verdict}")
    return "\n".join(lines)

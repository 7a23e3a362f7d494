"""Runs everything that needs an NVIDIA GPU, in some minutes: tests, measurements, or a training.

    python3 tools/gpu_run.py --out runs/gpu
    python3 tools/gpu_run.py --out runs/gpu --only decode tests
    python3 tools/gpu_run.py --out runs/gpu --train config/train/synthetic.yaml --from WEIGHTS \\
        --data FOLDER --seconds 450
    python3 tools/gpu_run.py --table runs/gpu/results.json > table.md

Each stage is a process with its own limit; none stops the next. The folder --out gets results.json,
rewritten after every stage, and gpu.log, the stages' output; a training adds weights.safetensors
(averaged, fp16) and its logs, at most a minute old. Ctrl-C and SIGTERM keep what is there. If torch
sees no CUDA device, or with --rehearse, the stages run on the CPU, at small sizes: this tests the
code, not the machine.

Needed: torch, numpy, numba, cv2, safetensors, yaml, tqdm, tabulate; pytest for the tests, a C++
compiler for the compiled form; no ROS and no network. Missing packages can be carried as wheels:

    pip download --no-deps --dest wheels NAME    # for that machine: --platform, --python-version
    pip install --no-index --no-deps --target site wheels/*.whl    # on that machine
    PYTHONPATH=site python3 tools/gpu_run.py ...
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BODIES = ROOT / "tools" / "gpu_stages.py"
LOG_BYTES = 1 << 20  # kept from the end of each stage's output
TAIL_LINES, TAIL_WIDTH = 25, 200  # of a failed stage, on the console
COPY_EVERY_S = 10
WRITE_EVERY_S = 45  # the trainer's weights, so that at most a minute is lost
KILLED_S = 10  # seconds a killed process has to end
REHEARSAL = 6  # factor of the stages' limits on a CPU


class Stage(NamedTuple):
    name: str
    limit_s: float
    purpose: str


# The limits are for what hangs: all stages together are expected to take about half of them.
STAGES = (
    Stage("machine", 60, "versions, copy bandwidth, matrix product"),
    Stage("decode", 120, "decoding on the device against the CPU: launched, recorded, replayed"),
    Stage("forms", 90, "forms of the network against float32 on the CPU, replayed three times"),
    Stage("tests", 210, "pytest -m gpu, without the compiled form"),
    Stage("sanitizer", 110, "compute-sanitizer memcheck and racecheck of a small decode"),
    Stage("bench", 150, "a whole frame and its parts: profiles, sizes, batches"),
    Stage("profile", 45, "the operations of a frame that take longest"),
    Stage("threads", 60, "300 frames in two threads, two sizes, a change of parameters"),
    Stage("training", 75, "training steps a second"),
    Stage("compiled", 75, "the network compiled ahead of time"),
)


class Results:
    """The growing results.json of a folder."""

    def __init__(self, out: Path) -> None:
        self.path, self.log = out / "results.json", out / "gpu.log"
        out.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        began = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.content: dict[str, Any] = {"began": began, "commit": _commit(), "stages": {}}

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.content["stages"][name] = row
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)

    def add_log(self, name: str, output: Path) -> str:
        """Keep the end of a stage's output, and return it."""
        said = output.read_bytes()[-LOG_BYTES:] if output.exists() else b""
        with self.log.open("ab") as log:
            log.write(f"\n===== {name} =====\n".encode() + said)
        return said.decode(errors="replace")


def run_stage(
    results: Results,
    name: str,
    command: Sequence[str],
    limit_s: float,
    environment: dict[str, str],
    each_second: Callable[[], None] = lambda: None,
) -> None:
    """Run a stage's process; its row says how it ended and what it had found by then."""
    with tempfile.TemporaryDirectory() as folder:
        found, output = Path(folder, "found.json"), Path(folder, "output")
        command = [*command, *(["--found", str(found)] if str(BODIES) in command else [])]
        start, ended = time.monotonic(), "interrupted"
        try:
            print(f"{name}: {limit_s:.0f} s at most", flush=True)
            ended = _wait(command, output, limit_s, environment, each_second)
        finally:
            row: dict[str, Any] = {"status": ended, "seconds": round(time.monotonic() - start, 1)}
            if found.exists():
                row |= json.loads(found.read_text(encoding="utf-8"))
            if "not_run" in row:
                row["status"] = "not run"
            said = results.add_log(name, output)
            failed = row["status"] not in ("done", "not run")
            if failed and said.strip():
                row["last_words"] = said.strip().splitlines()[-1][:300]
            results.add(name, row)
            print(f"{name}: {row['status']}, {row['seconds']} s  {row.get('not_run', '')}")
            if failed:
                print("\n".join(line[:TAIL_WIDTH] for line in said.splitlines()[-TAIL_LINES:]))
            sys.stdout.flush()


def _wait(
    command: Sequence[str],
    output: Path,
    limit_s: float,
    environment: dict[str, str],
    each_second: Callable[[], None],
) -> str:
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # so that its children end with it
        )
        end = time.monotonic() + limit_s
        try:
            while time.monotonic() < end:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=1)
                    return "done" if code == 0 else f"failed ({code})"
                each_second()
            return f"stopped after {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # What hangs in a driver does not even die: the others go on without waiting for it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=KILLED_S)


def train(results: Results, args: argparse.Namespace, environment: dict[str, str]) -> None:
    """Train, and copy what is worth keeping into --out meanwhile."""
    out = results.path.parent
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [sys.executable, "-m", "instaseg_ros.cli", "train", _absolute(args.train)]
        command += ["-o", str(run), "--set", f"train.seconds={args.seconds}"]
        command += ["--set", f"train.save_every_s={WRITE_EVERY_S}"]
        for option, value in (("--from", args.init), ("--data", args.data)):
            command += [option, _absolute(value)] if value else []
        for assignment in args.set:
            command += ["--set", assignment]
        copied = time.monotonic()

        def copy() -> None:
            for name in ("weights.safetensors", "best.safetensors", "log.csv", "validation.csv"):
                with contextlib.suppress(OSError):
                    shutil.copyfile(run / name, out / f"{name}.part")
                    (out / f"{name}.part").replace(out / name)

        def now_and_then() -> None:
            nonlocal copied
            if time.monotonic() - copied > COPY_EVERY_S:
                copied = time.monotonic()
                copy()

        try:
            run_stage(results, "train", command, args.deadline, environment, now_and_then)
        finally:
            copy()


def _absolute(path: str | Path) -> str:
    """An absolute path, for use in another folder; a name that is not a path stays unchanged."""
    return str(Path(path).resolve() if Path(path).exists() else path)


def table(files: Sequence[Path]) -> str:
    """A Markdown table of results.json files; later rows replace earlier ones."""
    lines = ["| stage | what | how it ended | found |", "|---|---|---|---|"]
    rows: dict[str, Any] = {stage.name: {"status": "not run"} for stage in STAGES}
    for file in files:
        rows |= json.loads(file.read_text(encoding="utf-8"))["stages"]
    purposes = {stage.name: stage.purpose for stage in STAGES}
    for name, row in rows.items():
        rehearsed = row.get("device") == "cpu"
        ended = f"{row['status']}, on a CPU" if rehearsed else row["status"]
        found = row.get("not_run") or ("" if rehearsed else _cell(row.get("found", {})))
        lines.append(f"| {name} | {purposes.get(name, '')} | {ended} | {found} |")
    return "\n".join(lines)


def _cell(found: dict[str, Any]) -> str:
    """The numbers of a stage in words: `a.b 1.23, ...`, without long lists."""

    def flat(value: Any, name: str) -> list[str]:
        if isinstance(value, dict) and value and all(isinstance(v, bool) for v in value.values()):
            return [f"{name} {sum(value.values())} of {len(value)}"]
        if isinstance(value, dict):
            inside = ((part, f"{name}.{key}".lstrip(".")) for key, part in value.items())
            return [word for part, full in inside for word in flat(part, full)]
        if isinstance(value, list):
            return [f"{name} ({len(value)})"]
        return [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"]

    return ", ".join(flat(found, "")).replace("|", "/").replace("\n", " ")


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    return "unknown"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    description, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="output folder")
    parser.add_argument("--only", nargs="+", choices=names, help="only these stages")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="all except these")
    parser.add_argument("--list", action="store_true", help="print the stages and their limits")
    parser.add_argument("--deadline", type=float, default=570, help="seconds for everything")
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU even with a GPU")
    parser.add_argument(
        "--table", type=Path, nargs="+", metavar="JSON", help="print results as Markdown"
    )
    parser.add_argument(
        "--train", type=Path, metavar="CONFIG", help="train instead of running stages"
    )
    parser.add_argument(
        "--from", dest="init", metavar="WEIGHTS", help="for --train: initial weights"
    )
    parser.add_argument("--data", help="for --train: the dataset")
    parser.add_argument(
        "--seconds", type=float, default=420, help="for --train: duration of the training steps"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args(arguments)
    if args.table:
        print(table(args.table))
        return 0
    if args.list:
        for stage in STAGES:
            print(f"{stage.name:10}{stage.limit_s:5.0f} s  {stage.purpose}")
        return 0
    chosen = [s for s in STAGES if s.name in (args.only or names) and s.name not in args.skip]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if args.rehearse:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        args.deadline *= REHEARSAL
    signal.signal(signal.SIGTERM, _interrupt)
    end = time.monotonic() + args.deadline
    try:
        results = Results(args.out)
        if args.train:
            train(results, args, environment)
            chosen = []
        for stage in chosen:
            left_s = end - time.monotonic()
            if left_s < 5:
                results.add(stage.name, {"status": "not run", "not_run": "no time was left"})
                continue
            command = [sys.executable, str(BODIES), stage.name]
            limit_s = min(stage.limit_s * (REHEARSAL if args.rehearse else 1), left_s)
            run_stage(results, stage.name, command, limit_s, environment)
    except KeyboardInterrupt:
        print(f"interrupted; the results so far are in {args.out}")
        return 130
    rows = results.content["stages"].values()
    return 0 if all(row["status"] in ("done", "not run") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Mutated inputs, as many as one likes, each in a process whose memory is bounded.

    python test/fuzz/driver.py [TARGET ...] --seconds 3600 --seed 1

A target is a file `of_TARGET.py` beside this one:

    seeds() -> list[bytes]      small whole inputs; heavy imports belong here
    feed(data: bytes, folder)   uses one as the package would; may raise InstasegError, nothing else
    mutate(rng, seeds) -> bytes  if byte by byte (`mutated`) is not the way
    ENVIRONMENT: dict[str, str] of its process
    MEMORY_MB, PATIENCE_S: what it may allocate, and how long an input may take, if not the usual

What went wrong is counted, and its input kept: another exception, a signal, an input that takes
longer than PATIENCE_S. Input number N of a seed is always the same: mutation asks `random` alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMORY_MB = 2000
PATIENCE_S = 60.0
POLL_S = 0.2
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1)
WORDS = (
    *(b"[", b"]", b"{", b"}", b":", b",", b"-", b'"', b"\n", b"  ", b"&a ", b"*a", b"!!"),
    *(b"null", b"true", b"-1", b"1e999", b".nan", b"1" * 400),
    *(b"\\u0000", b"\\ud800", b"\xff", b"\0"),
)


@dataclass
class Tally:
    """refused: inputs that were a sentence; accepted: that were used. failures: (what, input)."""

    refused: int = 0
    accepted: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.refused + self.accepted + len(self.failures)


def targets() -> list[str]:
    return sorted(path.stem.removeprefix("of_") for path in HERE.glob("of_*.py"))


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few bytes changed, cut, doubled, or taken from another."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        until = min(len(data), at + rng.choice((1, 2, 4, 8, 100)))
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:until] = b""
        elif kind == 2:
            data[at:at] = data[at:until] * rng.choice((1, 1, 2, 50))
        elif kind == 3:
            data[at:until] = rng.choice(NUMBERS).to_bytes(8, rng.choice(("little", "big")))
        elif kind == 4:
            data[at : rng.choice((at, until))] = rng.choice(WORDS)
        elif kind == 5:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at:until] = other[start : start + rng.choice((1, 8, 100))]
        else:
            del data[at:]
    return bytes(data)


def fuzz(
    target: str, seed: int, keep: Path, inputs: int | None = None, seconds: float = 1e9
) -> Tally:
    """Feed a target so many inputs, or for so long; those that fail are kept in the folder `keep`.

    A process that a signal ends, or that hangs, is started again after the input that did it.
    """
    tally = Tally()
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        first = 0
        while (inputs is None or first < inputs) and seconds > 0:
            left = "" if inputs is None else str(inputs - first)
            code = _watch(target, seed, first, left, seconds, Path(folder))
            report = Path(folder, "report")
            facts = json.loads(report.read_text()) if report.exists() else {"next": first}
            tally.refused += facts.get("refused", 0)
            tally.accepted += facts.get("accepted", 0)
            said = [*facts.get("failures", ())]
            first = facts["next"]
            seconds -= facts.get("seconds", 0)
            if code:  # the input after the last that was reported
                said.append([f"ended with {code}", first])
                first += 1
            for what, number in said:
                path = keep / f"{target}_{seed}_{number}"
                path.write_bytes(nth(target, seed, number))
                tally.failures.append((what, str(path)))
            if code and not facts.get("ready"):
                raise RuntimeError(f"{target}: the process does not start; see above")
            if not code:
                break
            report.unlink(missing_ok=True)
    return tally


def nth(target: str, seed: int, number: int) -> bytes:
    """Input `number` of a seed."""
    module = _module(target)
    return _mutation(module, seed, number, module.seeds())


def took_all_memory(error: BaseException | None) -> bool:
    """Whether a message comes from a MemoryError, which needs a memory limit."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _module(target: str) -> ModuleType:
    for path in (str(ROOT), str(HERE.parent / "helpers"), str(HERE)):
        if path not in sys.path:
            sys.path.insert(0, path)
    return importlib.import_module(f"of_{target}")


def _mutation(module: ModuleType, seed: int, number: int, seeds: Sequence[bytes]) -> bytes:
    rng = random.Random(f"{seed} {number}")
    return getattr(module, "mutate", mutated)(rng, seeds)


def _watch(target: str, seed: int, first: int, inputs: str, seconds: float, folder: Path) -> int:
    """Run a process until it is done, dies or hangs; returns its exit code."""
    module = _module(target)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        **getattr(module, "ENVIRONMENT", {}),
    }
    patience_s = getattr(module, "PATIENCE_S", PATIENCE_S)
    words = ["--child", target, str(seed), str(first), inputs, str(seconds), str(folder)]
    process = subprocess.Popen([sys.executable, __file__, *words], env=environment)
    report, seen, since = folder / "report", b"", time.monotonic()
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_S)
            now = report.read_bytes() if report.exists() else b""
            if now != seen or b'"ready": true' not in now:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > patience_s:
                process.kill()
    finally:
        process.kill()
        process.wait()
    return code


def _child(target: str, seed: int, first: int, inputs: str, seconds: float, folder: Path) -> None:
    module = _module(target)
    seeds = module.seeds()
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libpng and others say a line of each
    from instaseg_ros.errors import InstasegError

    for data in seeds:  # imports, compiles, and is whole
        module.feed(data, folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + getattr(module, "MEMORY_MB", MEMORY_MB) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    number, start = first, time.monotonic()
    refused = accepted = 0
    failures: list[tuple[str, int]] = []
    report, part = folder / "report", folder / "report.part"

    def tell() -> None:
        facts = {"next": number, "refused": refused, "accepted": accepted, "failures": failures}
        spent = time.monotonic() - start
        part.write_text(json.dumps({"ready": True, "seconds": spent, **facts}))
        os.replace(part, report)

    while (not inputs or number < first + int(inputs)) and time.monotonic() < start + seconds:
        tell()
        try:
            module.feed(_mutation(module, seed, number, seeds), folder)
            accepted += 1
        except InstasegError as error:
            if took_all_memory(error):
                failures.append((f"MemoryError: {error}"[:300], number))
            else:
                refused += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append((f"{type(error).__name__}: {error} ({where.name})"[:300], number))
        number += 1
    tell()


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        target, seed, first, inputs, seconds, folder = sys.argv[2:]
        _child(target, int(seed), int(first), inputs, float(seconds), Path(folder))
        return 0
    parser = argparse.ArgumentParser(description="Feed the package mutated inputs.")
    parser.add_argument("target", nargs="*", help=f"of {', '.join(targets())}; default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder of failures")
    args = parser.parse_args()
    failed = False
    for target in args.target or targets():
        tally = fuzz(target, args.seed, args.keep, seconds=args.seconds)
        print(
            f"{target}: {tally.inputs} inputs, {tally.accepted} used, {tally.refused} refused, "
            f"{len(tally.failures)} failed",
            flush=True,
        )
        for what, path in tally.failures[:20]:
            print(f"  {path}: {what}")
        failed = failed or bool(tally.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

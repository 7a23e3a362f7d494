"""NVIDIA's own bindings, loaded without TensorRT: looks up in them what is asked on stdin.

    python bindings_check.py FOLDER < touches.json

FOLDER holds the unpacked wheel. A process of its own, since a process can load one version only,
and LD_LIBRARY_PATH must name the libraries of `empty_libraries` before it starts.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def empty_libraries(binding: Path, folder: Path) -> None:
    """Compile what the binding needs of TensorRT's libraries: its entry points, returning null."""
    names = set(re.findall(rb"libnv\w+\.so\.\d+", binding.read_bytes()))
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", binding], check=True, capture_output=True, text=True
    ).stdout
    symbols = [line.split()[-1] for line in listing.splitlines() if line.split()[-2] == "U"]
    # libc's and libstdc++'s have versions (@), Python's come from the interpreter
    missing = [name for name in symbols if "@" not in name and not re.match(r"_?Py", name)]
    assert "createInferBuilder_INTERNAL" in missing
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in missing))
    for name in map(bytes.decode, names):
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source],
            check=True,
        )


def signatures(function: Any) -> list[list[tuple[str, bool]]]:
    """Parameters but self, as (name, has a default), of each overload that pybind11 documents."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        match = re.match(r"(?:\d+\. )?\w+\((self: .*)\) -> ", line)
        if match:
            text = re.sub(r"<[^<>]*(<[^<>]*>[^<>]*)*>", "", match[1])  # defaults such as <X.Y: 0>
            while (bare := re.sub(r"\[[^\[\]]*\]", "", text)) != text:  # types such as List[Dims]
                text = bare
            parameters = [part.strip() for part in text.split(", ")][1:]
            found.append([(part.split(":")[0], "=" in part) for part in parameters])
    return found


def accepts(signature: list[tuple[str, bool]], positional: int, keywords: list[str]) -> bool:
    """Whether a call with so many positional arguments and these keywords fits."""
    names = [name for name, _ in signature]
    given = set(names[:positional]) | set(keywords)
    needed = {name for name, default in signature if not default}
    return (
        positional <= len(names)
        and set(keywords) <= set(names[positional:])
        and needed <= given
        and given <= set(names)
    )


def problem(trt: Any, kind: str, member: str, positional: int | None, keywords: list[str]) -> str:
    """The fault of one use of the API; empty if there is none."""
    if not hasattr(trt, kind):
        return f"{kind} is no name of tensorrt"
    if not hasattr(getattr(trt, kind), member):
        return f"{kind} has no {member}"
    value = getattr(getattr(trt, kind), member)
    if positional is None:
        return f"{kind}.{member} must be called" if signatures(value) else ""
    found = signatures(value)
    if not any(accepts(signature, positional, keywords) for signature in found):
        return f"{kind}.{member} takes {found}, not {positional} arguments and {keywords}"
    return ""


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import tensorrt_bindings as trt

    touches = json.load(sys.stdin)
    logger = trt.Logger(trt.Logger.WARNING)  # one of the few objects made without the libraries
    assert isinstance(logger, trt.ILogger)
    flags = {
        name: [member for member in members if hasattr(getattr(trt, name), member)]
        for name, members in touches["flags"].items()
    }
    numbers = [
        1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
        for name in flags["NetworkDefinitionCreationFlag"]
    ]
    answer = {
        "version": trt.__version__,
        "problems": [text for touch in touches["touches"] if (text := problem(trt, *touch))],
        "flags": flags,
        "numbers": numbers,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()

# PYTHON_ARGCOMPLETE_OK
"""The `instaseg` command: one module per verb, imported only when it is called.

A verb's module has EXAMPLES, `add_arguments(parser)` and `run(args) -> exit code`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instaseg_ros import __version__
from instaseg_ros.cli.parser import (
    Parser,
    complete,
    completes,
    examples,
    parameter_names,
    weights_names,
)
from instaseg_ros.errors import (
    ConfigError,
    InputError,
    InstasegError,
    MissingExtraError,
    TruncatedInputError,
    WeightsError,
)

if TYPE_CHECKING:
    from instaseg_ros.config import Config

PACKAGE = "instaseg_ros"
BEYOND_LIMIT = 3  # exit code
EXIT_CODES = {
    0: "done",
    1: "an input or output failed on the way, or what was examined is not as it should be",
    2: "an option, an input, the weights or a package cannot be used",
    BEYOND_LIMIT: "nothing failed, but a number of `evaluate` is beyond its limit (--fail-under)",
    130: "Ctrl-C",
    141: "nobody reads the output any more (`instaseg info DATA | head`)",
}
WEIGHTS = "safetensors"  # suffix of the files
PIP_NAMES = {"cv2": "opencv-python-headless"}
VERBS = {  # verb: module, what it does
    "demo": ("instaseg_ros.cli.demo", "watch the ROS node label a synthetic street"),
    "replay": ("instaseg_ros.cli.replay", "label a recording, a video or a folder of images"),
    "view": ("instaseg_ros.cli.view", "draw what the network thinks, from seeds to objects"),
    "play": ("instaseg_ros.cli.play", "publish a recording's topics at the speed they came at"),
    "record": ("instaseg_ros.cli.record", "record topics into one file, as rosbag2 does"),
    "evaluate": (
        "instaseg_ros.cli.evaluate",
        "measure weights on a dataset, and show where accuracy is lost",
    ),
    "query": (
        "instaseg_ros.cli.query",
        "ask what an evaluation of recordings has kept, in SQL or by ready questions",
    ),
    "compare": (
        "instaseg_ros.cli.compare",
        "compare two evaluations of recordings, and tell progress from noise",
    ),
    "mine": (
        "instaseg_ros.cli.mine",
        "find the frames of a recording that a network is unsure of, as a dataset to label",
    ),
    "tune": (
        "instaseg_ros.cli.tune",
        "find the thresholds of each class, from a dataset, and write them into weights",
    ),
    "bench": ("instaseg_ros.cli.bench", "time every stage, beside the published implementation"),
    "export": ("instaseg_ros.cli.export", "write the network as ONNX, OpenVINO IR or an engine"),
    "doctor": (
        "instaseg_ros.cli.doctor",
        "compare every runtime on this machine with torch, or judge a running robot",
    ),
    "quantize": (
        "instaseg_ros.cli.quantize",
        "make an int8 model of weights, and measure it before keeping it",
    ),
    "info": (
        "instaseg_ros.cli.info",
        "show a dataset's content, and which of its files are broken",
    ),
    "label": ("instaseg_ros.cli.label", "label frames by clicking, on a page in the browser"),
    "pack": ("instaseg_ros.cli.pack", "pack a dataset into a few files, for transport"),
    "train": ("instaseg_ros.cli.train", "train weights, or resume a stopped run"),
}


EXAMPLES = """
instaseg replay drive.mcap -o overlay.mp4
instaseg evaluate synthetic
instaseg train --help
"""

DEBUG = "INSTASEG_DEBUG"  # environment variable: show tracebacks of errors


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. Messages go to stderr; no error leaves this."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with _interrupts() as interrupts:
        try:
            code = _run(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()  # while a full disk can still be named
            return code
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get(DEBUG):
                traceback.print_exc()
            # Some C code turns an interrupt during its import into another error.
            code, said = (130, "interrupted") if interrupts else _exit_of(error)
            if said:
                program = " ".join(filter(None, ("instaseg", _verb(arguments))))
                print(f"{program}: {said}", file=sys.stderr)
            return code
        finally:
            _give_up_broken_stdout()


def _run(arguments: Sequence[str]) -> int:
    threads = os.environ.get("NUMBA_NUM_THREADS", "")
    if threads.removeprefix("-").isdecimal() and int(threads) < 1:
        raise ConfigError(f"NUMBA_NUM_THREADS: expected at least 1, got {threads}")
    complete(partial(_parser, checked=False))
    args = _parser(arguments).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return int(import_module(VERBS[args.verb][0]).run(args))


def _exit_of(error: BaseException) -> tuple[int, str]:
    """Exit code and message."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, BrokenPipeError):
        return 141, ""
    if isinstance(error, ModuleNotFoundError) and error.name and PACKAGE not in error.name:
        name = error.name.partition(".")[0]
        error = MissingExtraError(PIP_NAMES.get(name, name), "pip", "this")
    if isinstance(error, (InstasegError, OSError)):
        unusable = isinstance(error, (ConfigError, InputError, MissingExtraError, WeightsError))
        return 2 if unusable and not isinstance(error, TruncatedInputError) else 1, str(error)
    return 1, (
        f"{type(error).__name__}: {error}\nThis error is unexpected: please report it, with the "
        f"output of {DEBUG}=1"
    )


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Let Ctrl-C raise KeyboardInterrupt, and note it in the list."""
    seen: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield seen
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _give_up_broken_stdout() -> None:
    """Redirect a broken stdout, about which Python would complain again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that has a Config; `config_from` reads them."""
    from instaseg_ros.config import Config

    group = parser.add_argument_group("configuration")
    group.add_argument("--config", metavar="FILE", help="YAML file of parameters")
    parameter = group.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter, such as decode.min_pixels=64; may be repeated",
    )
    completes(parameter, parameter_names)
    weights = group.add_argument(
        "--weights",
        help="a shipped name, a .safetensors file or a published .pth file; default: that of "
        f"--config, else {Config().weights}",
    )
    completes(weights, weights_names)


def size_from(option: str, multiple: int = 1) -> tuple[int, int]:
    """(height, width) in pixels from an option like 512x1024. Raises ConfigError for another form,
    or if a side is not a multiple of `multiple`."""
    height, cross, width = option.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"--size: expected HEIGHTxWIDTH in pixels, got {option}")
    size = int(height), int(width)
    if any(side % multiple for side in size):
        raise ConfigError(f"--size: expected multiples of {multiple}, got {option}")
    return size


def config_from(args: argparse.Namespace) -> Config:
    """The Config from `add_config_options`: defaults, the weights' thresholds, then --config,
    --set, --weights."""
    from instaseg_ros.config import parse_assignments
    from instaseg_ros.configure import load_config

    overrides = parse_assignments(args.set)
    if args.weights:
        overrides["weights"] = args.weights
    return load_config(args.config, overrides)


def check_number(name: str, value: float | None, positive: bool) -> None:
    """Raises ConfigError for an option that is negative, not finite or, if `positive`, zero."""
    if value is None:
        return
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        expected = "a positive number" if positive else "0 or more"
        raise ConfigError(f"--{name}: expected {expected}, got {value:g}")


def import_ros(module: str, purpose: str) -> Any:
    """A module that needs ROS. Raises ConfigError if ROS cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs ROS 2, which cannot be imported: {error}; source its set-up first, "
            "such as /opt/ros/jazzy/setup.bash, or run it from the environment of `make ros`"
        ) from error


def check_frames(images: str | None) -> None:
    """Raises InputError for an unreadable input; call it before work that takes minutes."""
    if images:
        from instaseg_ros.recordings.sources import open_source

        open_source(images)


def refuse_input(given: str, outputs: Sequence[str | Path]) -> None:
    """Raises ConfigError for an output that is the input."""
    for output in map(Path, outputs):
        if output.exists() and Path(given).exists() and output.samefile(given):
            raise ConfigError(f"output {output} is the input; choose another name")


def check_weights_output(path: Path, overwrite: bool) -> None:
    """Raises ConfigError for a file that weights cannot be written to, before they are made."""
    from instaseg_ros.files import OutputFile

    if path.suffix != f".{WEIGHTS}":
        raise ConfigError(
            f"output for {WEIGHTS}: expected a name that ends in .{WEIGHTS}, got {path}"
        )
    OutputFile(path, overwrite)


def _verb(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if not word.startswith("-")), None)


def help_of(verb: str) -> str:
    """What `instaseg VERB --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        _parser([verb]).parse_args([verb, "--help"])
    return printed.getvalue()


def _parser(arguments: Sequence[str], checked: bool = True) -> Parser:
    """A parser with every verb, and the options of the called one. checked: end at an unknown
    option."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog="instaseg",
        description="Real-time instance segmentation for ROS 2.",
        epilog=f"{examples(EXAMPLES)}\n\nexit codes:\n{codes}",
    )
    parser.add_argument("--version", action="version", version=f"{PACKAGE} {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    called = _verb(arguments)
    before = arguments.index(called) if called else len(arguments)
    for verb, (name, purpose) in VERBS.items():
        sentence = f"{purpose[0].upper()}{purpose[1:]}."
        subparser = verbs.add_parser(verb, help=purpose, description=sentence)
        if verb == called:
            module = import_module(name)
            subparser.epilog = examples(module.EXAMPLES)
            module.add_arguments(subparser)
            if checked:
                subparser.check_options(arguments[before + 1 :])
    if checked:
        parser.check_options(arguments[:before])
    return parser

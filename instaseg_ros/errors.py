"""Defines the errors this package raises. Only `cli` and `ros` act on them."""

import difflib
from collections.abc import Iterable
from importlib import import_module


class InstasegError(Exception):
    """Base of this package's errors; its message is written for the user."""


class ConfigError(InstasegError):
    """A parameter, option or config file that cannot be used."""


class WeightsError(InstasegError):
    """A weights file that is missing, unsafe, damaged or not of the shape it claims."""


class ImageError(InstasegError):
    """An image or camera message that cannot be converted; it is skipped and counted."""


class InputError(InstasegError):
    """A bag, video, folder or dataset that cannot be read as asked."""


class TruncatedInputError(InputError):
    """An input that ends too early; everything before the break was delivered."""


class MissingExtraError(InstasegError):
    """A missing optional dependency. The message says what to install: on a robot the package
    alone, in a checkout the whole extra (no index has `instaseg_ros`)."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the Python package '{package}', which is not installed: "
            f"pip install {package}, or in a checkout of instaseg_ros pip install '.[{extra}]'"
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, for "did you mean"; None if none is."""
    found = difflib.get_close_matches(name[:100], known, n=1)
    return found[0] if found else None


def require(package: str, extra: str, purpose: str) -> None:
    """Raises MissingExtraError if `package` cannot be imported; call it before long work that needs
    the package only at its end."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package.partition(".")[0], extra, purpose) from error


class EngineError(InstasegError):
    """An exported model or engine that cannot be built, or whose outputs differ from torch's."""

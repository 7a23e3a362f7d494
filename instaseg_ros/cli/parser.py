"""argparse for `instaseg`: near names in errors, defaults and examples in help, Tab completion."""

from __future__ import annotations

import argparse
import contextlib
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any

from instaseg_ros.errors import nearest


class Formatter(argparse.HelpFormatter):
    """Adds the defaults that a help text does not tell, and keeps the lines of examples."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = action.default in (None, argparse.SUPPRESS, []) or action.default is False
        if nothing or "default" in text or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)" if text else "default: %(default)s"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return textwrap.indent(text, indent)
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Names the nearest known word for one that is mistyped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": Formatter, **options})

    def check_options(self, words: Sequence[str]) -> None:
        """Ends with a usage error at an option that this parser does not have. argparse itself
        would first ask for what is missing, and tell of it without the options' names."""
        known = list(self._option_string_actions)
        for word in takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            is_option = name.startswith("--") and " " not in name
            if is_option and not any(option.startswith(name) for option in known):
                near = nearest(name, known)
                hint = f"did you mean {near}?" if near else f"see {self.prog} --help"
                self.error(f"unknown option {name}; {hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        near = nearest(str(value), known)
        hint = f"did you mean {near}?" if near else f"expected one of {', '.join(known)}"
        raise argparse.ArgumentError(action, f"unknown: '{value}'; {hint}")


def examples(commands: str) -> str:
    """The end of a help text."""
    return "examples:\n" + textwrap.indent(commands.strip(), "  ")


def completes(action: argparse.Action, words: Callable[[], Iterable[str]]) -> None:
    """Let Tab propose these words for an argument; without any that fit, it proposes files."""
    action.completer = lambda **_: words()  # type: ignore[attr-defined]


def complete(parser_of: Callable[[Sequence[str]], argparse.ArgumentParser]) -> None:
    """Answer a shell that wants a line completed, and end; otherwise return at once.

    parser_of: makes the parser for the words after the program's name.
    """
    if "_ARGCOMPLETE" in os.environ:
        with contextlib.suppress(ModuleNotFoundError):
            from argcomplete import autocomplete

            autocomplete(parser_of(os.environ.get("COMP_LINE", "").split()[1:]))


def weights_names() -> list[str]:
    """Of the shipped weights, for completion."""
    from instaseg_ros.checkpoint import shipped_weights

    return list(shipped_weights())


def parameter_names() -> list[str]:
    """NAME= of every parameter, for completion."""
    from instaseg_ros.config import Config, parameters

    return [f"{parameter.name}=" for parameter in parameters(Config())]

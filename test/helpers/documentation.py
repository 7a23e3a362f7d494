"""README and the pages of docs/: their code, and the commands in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(program: str, *pages: str) -> list[list[str]]:
    """What follows the program in its commands, each once; of all pages, or of some."""
    found: dict[tuple[str, ...], None] = {}
    for page in pages or PAGES:
        for block in blocks(PAGES[page], "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == [program]:
                    found[tuple(words[1:])] = None
    return [list(words) for words in found]

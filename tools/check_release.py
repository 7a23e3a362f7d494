#!/usr/bin/env python3
"""Says what is missing for a release; docs/releasing.md has the steps.

python tools/check_release.py 0.1.0    the tag, which bloom wants to be the version
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from catkin_pkg.changelog import get_changelog_from_path
from catkin_pkg.package import Package, parse_package

ROOT = Path(__file__).resolve().parents[1]
URLS = ("website", "repository", "bugtracker")


def main() -> None:
    expected = f"expected one argument, the tag, got {len(sys.argv) - 1}"
    missing = list(missing_for(ROOT, sys.argv[1])) if len(sys.argv) == 2 else [expected]
    if missing:
        sys.exit("\n".join(missing))


def missing_for(root: Path, tag: str) -> Iterator[str]:
    """A sentence for everything that keeps the checkout in `root` from being released as `tag`."""
    package: Package = parse_package(str(root))
    if tag != package.version:
        yield f"tag: expected the version in package.xml, {package.version}, got {tag}"
    for maintainer in package.maintainers:
        if maintainer.email.endswith(".invalid"):
            yield f"package.xml: {maintainer.email} is no address that can be written to"
    given = {url.type for url in package.urls}
    for kind in URLS:
        if kind not in given:
            yield f'package.xml: expected <url type="{kind}">'
    changelog = get_changelog_from_path(str(root / "CHANGELOG.rst"))
    if package.version not in [version for version, _, _ in changelog.foreach_version()]:
        yield f"CHANGELOG.rst: expected a section {package.version} (YYYY-MM-DD), not Forthcoming"
    if not (root / "test" / "compatibility" / package.version).is_dir():
        yield f"test/compatibility/{package.version} is missing: docs/compatibility.md"


if __name__ == "__main__":
    main()

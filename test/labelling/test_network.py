"""The network behind the page: what it has seen, and newer weights in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from label_sessions import CLASSES, DiscNetwork, a_frame, asked, wait_for, write_frames

from instaseg_ros.frames import Frame
from instaseg_ros.labelling.frames import open_frames
from instaseg_ros.labelling.network import Network
from instaseg_ros.labelling.session import Session
from instaseg_ros.labelling.store import open_store
from instaseg_ros.pipeline import Pipeline

pytest.importorskip("pycocotools", reason="the extra `coco` is not installed")


def look(network: Network, pipeline: Any, frame: Frame) -> Any:
    """In the place of inference: what is seen tells which pipeline saw it."""
    return DiscNetwork().seen(0)._replace(how=pipeline)


@pytest.fixture
def ready() -> list[int]:
    return []


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, ready: list[int]) -> Iterator[Network]:
    monkeypatch.setattr(Network, "_look", look)
    one = Network(lambda: cast(Pipeline, "old"), a_frame, 5, ready.append)
    yield one
    one.stop()


def sees(network: Network, number: int, how: str) -> None:
    def true() -> bool:
        seen = network.seen(number)
        return seen is not None and seen.how == how

    wait_for(true)


def test_it_sees_the_wanted_frame_and_the_next(network: Network, ready: list[int]) -> None:
    network.want(3)
    sees(network, 3, "old")
    sees(network, 4, "old")
    assert ready == [3, 4] and network.seen(2) is None


def test_the_open_frame_keeps_what_it_shows_until_it_is_left(network: Network) -> None:
    network.want(1)
    sees(network, 2, "old")
    network.renew(cast(Pipeline, "new"))
    sees(network, 2, "new")
    sees(network, 1, "old")
    assert network.is_newer(1) and not network.is_newer(2)
    network.want(1)  # the page has fetched it again
    assert network.is_newer(1)
    network.want(2)
    assert not network.is_newer(1)
    network.want(1)
    sees(network, 1, "new")


def test_it_looks_again_when_asked(network: Network, ready: list[int]) -> None:
    network.want(1)
    sees(network, 2, "old")
    network.renew(cast(Pipeline, "new"))
    wait_for(lambda: network.is_newer(1))
    network.again(1)
    sees(network, 1, "new")
    assert not network.is_newer(1)
    wait_for(lambda: ready.count(1) == 2)


def test_only_a_frame_that_nobody_has_edited_gets_new_proposals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more_or_less(network: Network, pipeline: Any, frame: Frame) -> Any:
        seen = DiscNetwork().seen(0)
        known = np.array([True, pipeline == "new"])
        return seen._replace(instances=seen.instances.rows(known), how=pipeline)

    monkeypatch.setattr(Network, "_look", more_or_less)
    frames = open_frames(str(write_frames(tmp_path / "frames")), None, 1)
    session = Session(frames, open_store(tmp_path / "mine", CLASSES, False))
    network = Network(lambda: cast(Pipeline, "old"), session.frame, 3, session.ready)
    session.network = network

    def shown(number: int) -> int:
        return len(session.open(number).facts["objects"])

    wait_for(lambda: shown(0) == 1)
    network.renew(cast(Pipeline, "new"))
    wait_for(lambda: session.status(0)["newer"])
    assert shown(0) == 1  # the open frame keeps its own
    session.look_again(0)
    wait_for(lambda: shown(0) == 2)
    session.edit(0, asked("brush", path=[(2, 2)]))
    assert shown(0) == 3
    session.look_again(0)
    sees(network, 0, "new")
    assert shown(0) == 3
    session.close()

"""What is evaluated where and when, without workers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from instaseg_ros.errors import ConfigError
from instaseg_ros.fleet.schedule import LEAST, MOST, Machine, pieces, share_of


@pytest.mark.parametrize("may_cut", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_pieces_are_all_frames_once_the_longest_recording_first(
    workers: int, may_cut: bool
) -> None:
    lengths = [3, 10_000, 0, 49, 7_777, 7_777, 120]
    plan = pieces(lengths, workers, may_cut)
    order = list(dict.fromkeys(piece.recording for piece in plan))
    assert order == [1, 4, 5, 6, 3, 0, 2]
    for number, length in enumerate(lengths):
        own = [piece.frames for piece in plan if piece.recording == number]
        assert [frame for frames in own for frame in frames] == list(range(length))
        assert may_cut or len(own) == 1
        if may_cut and length:
            assert max(map(len, own)) - min(map(len, own)) <= 1


def test_pieces_are_neither_tiny_nor_huge() -> None:
    assert [len(one.frames) for one in pieces([LEAST * 2 + 1], 64, True)] == [33, 34, 34]
    assert len(pieces([LEAST], 64, True)) == 1
    assert max(len(one.frames) for one in pieces([10_000_000], 4, True)) == MOST


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "share"),
    [
        ([(2, 0)], 2, True, (2, 1, 0)),
        ([(16, 0)], 3, True, (3, 5, 0)),
        ([(16, 0)], None, True, (4, 4, 0)),
        ([(2, 0)], None, True, (1, 2, 0)),
        ([(16, 0), (4, 0)], 5, True, (5, 4, 0)),
        ([(16, 1), (64, 0)], None, True, (1, 16, 1)),  # only where there is a GPU
        ([(16, 1), (64, 0)], None, False, (20, 4, 0)),
        ([(32, 4)], None, True, (4, 8, 1)),
        ([(32, 4)], 6, True, (6, 5, 0.5)),
        ([(8, 1), (8, 4)], 5, True, (5, 2, 1)),
    ],
)
def test_shares_fit_on_the_machines(
    machines: list[tuple[int, int]],
    workers: int | None,
    gpus: bool,
    share: tuple[int, int, float],
) -> None:
    assert share_of([Machine(*one) for one in machines], workers, gpus) == share


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected 1 to 4, one a core, got 5"):
        share_of([Machine(2, 0), Machine(2, 0)], 5, False)
    with pytest.raises(ConfigError, match="at most what 5 GPUs on machines of 1, 64 cores"):
        share_of([Machine(1, 4), Machine(64, 1)], 10, True)


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import fleet_schedule

    return fleet_schedule


def test_the_simulation_gives_each_task_to_the_first_free_worker(simulation: ModuleType) -> None:
    between_s = simulation.BETWEEN_S
    assert simulation.makespan_s([40, 10, 10, 30], 2, 10.0) == pytest.approx(5 + 3 * between_s)
    assert simulation.makespan_s([40, 10, 10], 3, 10.0) == pytest.approx(4 + between_s)
    lengths = simulation.lengths_of(200, 1)
    assert lengths == simulation.lengths_of(200, 1) != simulation.lengths_of(200, 2)
    ends = [
        simulation.makespan_s(tasks, 16, 10.0) for tasks in simulation.plans(lengths, 16).values()
    ]
    assert ends[0] >= ends[1] >= ends[2] >= sum(lengths) / 160
    assert all(sum(tasks) == sum(lengths) for tasks in simulation.plans(lengths, 16).values())

"""Steps that wait for nothing, end in time, and leave weights as they go."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from disc_images import QUICK, write_discs

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, TrainConfig, merge
from instaseg_ros.training import logs, memory, trainer
from instaseg_ros.training.divergence import GradientNorms, Noted
from instaseg_ros.training.memory import WORKER_BYTES, worker_count
from instaseg_ros.training.schedule import is_last, learning_rate
from instaseg_ros.training.state import State
from instaseg_ros.training.trainer import train


def test_a_step_without_a_finite_gradient_changes_no_weight_nor_do_those_after_it() -> None:
    """Until somebody asks; the fused optimiser is the one that a GPU has."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], 0.1, fused=True)
    norms = GradientNorms(deferred=True)
    seen = []
    for step, slope in enumerate([1.0, float("nan"), 1.0]):
        weight.grad = torch.full((3,), slope)
        norms.note(Noted(step, weight.grad.norm(), {"total": torch.tensor(slope)}), optimizer)
        optimizer.step()
        seen.append(weight.detach().clone())
    assert torch.allclose(seen[0], torch.full((3,), 0.9))
    assert torch.equal(seen[1], seen[0]) and torch.equal(seen[2], seen[0])
    bad = norms.first_bad()
    assert bad is not None and bad.step == 1 and bad.terms["total"].isnan()
    assert norms.first_bad() is None


@pytest.mark.parametrize(("saved", "own"), [(None, True), (True, None)])
def test_a_state_goes_on_with_the_optimiser_of_another_device(
    tmp_path: Path, saved: bool | None, own: bool | None
) -> None:
    """One is fused, the other is not: the next step is the same."""

    def state(fused: bool | None) -> State:
        torch.manual_seed(0)
        parts = [torch.nn.Linear(3, 2) for _ in range(2)]
        optimizer = torch.optim.Adam(parts[0].parameters(), 0.01, fused=fused)
        return State(*parts, optimizer)  # type: ignore[arg-type]

    def step(of: State) -> torch.Tensor:
        of.network(torch.ones(1, 3)).sum().backward()
        of.optimizer.step()
        of.optimizer.zero_grad()
        return next(of.network.parameters()).detach().clone()

    first, second = state(saved), state(own)
    step(first)
    first.save(tmp_path / "state.pt", 1)
    assert second.resume(tmp_path / "state.pt") == 1
    assert second.optimizer.param_groups[0]["fused"] is own
    assert torch.allclose(step(first), step(second), atol=1e-7)


def test_by_time_the_step_size_is_zero_at_the_end() -> None:
    config = dataclasses.replace(TrainConfig(), seconds=100.0, warmup_steps=10, learning_rate=1.0)
    assert learning_rate(config, 4, 50.0) == pytest.approx(0.5), "warm-up goes by steps"
    assert learning_rate(config, 999, 50.0) == pytest.approx(0.5)
    assert learning_rate(config, 999, 200.0) == pytest.approx(0.0)
    assert not is_last(config, config.steps, 99.0) and is_last(config, 5, 100.0)


def test_a_run_ends_in_time_and_writes_weights_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of the test's, of which every step takes a second."""
    now = [100.0]
    for module in (trainer, logs):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    whole, written = trainer._step, []

    def second(*arguments: object) -> object:
        now[0] += 1
        return whole(*arguments)  # type: ignore[arg-type]

    def noted(path: Path, *others: object) -> None:
        written.append((now[0] - 100, path.name, bool(others[-1])))
        save(path, *others)

    save = trainer.save_weights
    monkeypatch.setattr(trainer, "_step", second)
    monkeypatch.setattr(trainer, "save_weights", noted)
    data = write_discs(tmp_path / "data", 6)
    options = {"train.dataset": str(data), "train.seconds": 5, "train.save_every_s": 2}
    config = merge(Config(), {**QUICK, **options, "train.validate_every": 1000, "train.steps": 1})
    weights = load_checkpoint(train(config, tmp_path / "run"))
    assert weights.notes["step"] == 6 and weights.notes["validation"]["mean"]
    assert written == [
        (2, "weights.safetensors", False),
        (4, "weights.safetensors", False),
        (6, "weights.safetensors", True),
        (6, "best.safetensors", True),
    ]
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 6
    assert all(t.dtype == torch.float16 for t in weights.tensors.values() if t.is_floating_point())


def test_the_average_keeps_its_decay_of_what_it_was() -> None:
    network, average = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    network.weight.data.fill_(3.0)
    network(torch.ones(1, 1, 2, 2))  # counts as a batch
    trainer.Average(SimpleNamespace(network=network, average=average)).update(0.75)  # type: ignore[arg-type]
    assert average.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 3)
    assert average.num_batches_tracked == network.num_batches_tracked == 1


def test_the_average_of_the_first_steps_is_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the chance that the network began with would stay in it for long."""
    decays: list[float] = []
    monkeypatch.setattr(trainer.Average, "update", lambda self, decay: decays.append(decay))
    options = {**QUICK, "train.dataset": str(write_discs(tmp_path / "data", 2))}
    train(merge(Config(), {**options, "train.steps": 3, "train.ema_decay": 0.2}), tmp_path / "run")
    assert decays == pytest.approx([1 / 10, 2 / 11, 0.2])


def test_workers_are_as_many_as_cores_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cores", lambda: 16)
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * WORKER_BYTES)
    assert worker_count(-1, on_gpu=True) == 15 and worker_count(-1, on_gpu=False) == 1
    assert worker_count(0, on_gpu=True) == 0 and worker_count(3, on_gpu=False) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(-1, on_gpu=True) == 3
    monkeypatch.setattr(memory, "available_bytes", lambda: 9 * WORKER_BYTES)
    assert worker_count(-1, on_gpu=True) == 2
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    assert worker_count(-1, on_gpu=True) == 1

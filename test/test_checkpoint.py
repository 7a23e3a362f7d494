"""Checkpoints: round trip, the published layout, and refusals that name what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.errors import WeightsError
from instaseg_ros.methods import make_method
from instaseg_ros.network import ERFNet


def fresh(n_classes: int = 2, n_sigma: int = 2) -> ERFNet:
    torch.manual_seed(0)
    return ERFNet(make_method("spatial_embedding", n_classes, n_sigma).heads).eval()


def test_round_trip_keeps_weights_and_description(tmp_path: Path) -> None:
    network = fresh()
    notes = {"licence": "Apache-2.0", "train": {"steps": 3}}
    checkpoint = Checkpoint(network.state_dict(), ("car", "bus"), notes=notes)
    path = tmp_path / "w.safetensors"
    save_checkpoint(checkpoint, path)
    assert not list(tmp_path.glob("*.part"))
    again = load_checkpoint(path)
    assert (again.class_names, again.n_sigma, again.notes) == (("car", "bus"), 2, notes)
    image = torch.rand(1, 3, 16, 24)
    for name, output in again.network().eval()(image).items():
        assert torch.equal(output, network(image)[name])


def test_half_precision_file_is_under_five_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(Checkpoint(fresh().state_dict(), ("car", "bus")), path, torch.float16)
    assert path.stat().st_size < 5_000_000
    assert all(p.dtype == torch.float32 for p in load_checkpoint(path).network().parameters())


@pytest.mark.parametrize(("n_classes", "n_sigma"), [(1, 1), (8, 2)])
def test_published_layout_loads(tmp_path: Path, n_classes: int, n_sigma: int) -> None:
    network = fresh(n_classes, n_sigma)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    path = tmp_path / "cars_pretrained_model.pth"
    torch.save({"epoch": 3, "best_iou": 0.5, "model_state_dict": state, "logger_data": {}}, path)
    checkpoint = load_checkpoint(path)
    assert (len(checkpoint.class_names), checkpoint.n_sigma) == (n_classes, n_sigma)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(checkpoint.network().eval()(image)["seed"], network(image)["seed"])


def test_wrong_published_file_names_missing_and_unexpected_keys(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in fresh(1, 1).state_dict().items()}
    state["module.decoders.9.bias"] = state.pop("module.encoder.initial_block.conv.weight")
    torch.save({"model_state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as refused:
        load_checkpoint(tmp_path / "w.pth")
    assert "1 missing: encoder.initial_block.conv.weight" in str(refused.value)
    assert "1 unexpected: decoders.9.bias" in str(refused.value)


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path) -> None:
    victim = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(victim),))  # type: ignore[return-value]

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"model_state_dict": Payload()}))
    with pytest.raises(WeightsError):
        load_checkpoint(tmp_path / "w.pth")
    assert not victim.exists()


def test_foreign_damaged_and_absent_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="expected a header of format"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    save_checkpoint(Checkpoint(fresh().state_dict(), ("car", "bus")), tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match="neither a shipped name"):
        load_checkpoint("no-such-weights")


def test_weights_for_other_heads_are_refused(tmp_path: Path) -> None:
    three = dict(fresh(3).state_dict())
    path = tmp_path / "w.safetensors"
    save_checkpoint(Checkpoint(three, ("car", "bus")), path)  # two names, three seed maps
    with pytest.raises(WeightsError, match=r"decoders\.1\.output_conv\.bias: expected \(2,\)"):
        load_checkpoint(path)


def test_the_network_profile_travels_with_the_weights(tmp_path: Path) -> None:
    network = ERFNet(make_method("spatial_embedding", 2, 2).heads, "fast").eval()
    path = tmp_path / "w.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), ("car", "bus"), profile="fast"), path)
    again = load_checkpoint(path)
    image = torch.rand(1, 3, 16, 24)
    assert torch.equal(again.network().eval()(image)["seed"], network(image)["seed"])
    path.write_bytes(path.read_bytes().replace(b'\\"fast\\"', b'\\"vast\\"'))
    with pytest.raises(WeightsError, match=r"expected a network profile of published, fast.*, got"):
        load_checkpoint(path)

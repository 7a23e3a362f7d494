"""Checkpoints: round trip, the published layout, and refusals that name what is wrong."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_networks import untrained_checkpoint

from instaseg_ros.checkpoint import (
    FORMAT,
    HEADER_KEY,
    Checkpoint,
    describe,
    description,
    load_checkpoint,
    save_checkpoint,
    weights_hash,
)
from instaseg_ros.errors import WeightsError
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet


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
    assert (again.class_names, again.notes) == (("car", "bus"), notes)
    assert again.shape == {"n_sigma": 2}
    image = torch.rand(1, 3, 16, 24)
    for name, output in again.network().eval()(image).items():
        assert torch.equal(output, network(image)[name])


def test_a_dense_head_and_its_classes_travel_with_the_weights(
    with_dense: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(with_dense, path)
    again = load_checkpoint(path)
    assert again.dense_names == describe(path).dense_names == with_dense.dense_names
    image = torch.rand(1, 3, 16, 24)
    dense = again.network().eval()(image)["dense"]
    assert torch.equal(dense, with_dense.network().eval()(image)["dense"])
    assert dense.shape == (1, 5, 2, 3)
    assert weights_hash(again) != weights_hash(replace(again, dense_names=("a", *"bcde")))
    save_checkpoint(replace(with_dense, dense_names=("road", "car")), path)
    with pytest.raises(WeightsError, match=r"dense\.weight: expected \(2, 128, 1, 1\), got \(5, "):
        load_checkpoint(path)
    save_checkpoint(replace(with_dense, dense_names=()), path)
    with pytest.raises(WeightsError, match=r"2 unexpected: dense\.bias, dense\.weight"):
        load_checkpoint(path)


def test_half_precision_file_is_under_five_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(Checkpoint(fresh().state_dict(), ("car", "bus")), path, torch.float16)
    assert path.stat().st_size < 5_000_000
    assert all(p.dtype == torch.float32 for p in load_checkpoint(path).network().parameters())


@pytest.mark.parametrize(("n_classes", "n_sigma"), [(1, 1), (8, 2)])
@pytest.mark.newest
def test_published_layout_loads(tmp_path: Path, n_classes: int, n_sigma: int) -> None:
    network = fresh(n_classes, n_sigma)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    path = tmp_path / "cars_pretrained_model.pth"
    torch.save({"epoch": 3, "best_iou": 0.5, "model_state_dict": state, "logger_data": {}}, path)
    checkpoint = load_checkpoint(path)
    assert (len(checkpoint.class_names), checkpoint.shape["n_sigma"]) == (n_classes, n_sigma)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(checkpoint.network().eval()(image)["seed"], network(image)["seed"])


@pytest.mark.newest
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


@cache
def chance() -> Checkpoint:
    return untrained_checkpoint()


def with_header(path: Path, **changes: object) -> Path:
    """A file whose header says something else of a network; None: nothing."""
    header = {"format": FORMAT, **description(chance()), "notes": {}, **changes}
    header = {name: value for name, value in header.items() if value is not None}
    save_file({"a": torch.zeros(1)}, path, {HEADER_KEY: json.dumps(header)})
    return path


DEEP: list[object] = []
for _ in range(900):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_sigma": 100_000_000}, "method.n_sigma: expected a value from 1 to 2"),
        ({"n_sigma": "2"}, "method.n_sigma: expected int, got str '2'"),
        ({"heads": None}, "its header has no heads"),
        ({"method": ["a"]}, "method.name: expected str"),
        ({"method": "astrology"}, "method 'astrology' is unknown"),
        ({"method": ""}, "method '' is unknown"),
        (
            {"method": "discriminative", "dimensions": 100_000_000},
            "method.dimensions: expected a value from 0 to 256",
        ),
        ({"profile": ["published"]}, "expected a network profile"),
        ({"class_names": "car"}, "class_names: expected a list of printable words"),
        ({"class_names": ["car", 3]}, "class_names: expected a list"),
        ({"class_names": ["car", "\ud800"]}, "class_names: expected a list"),
        ({"class_names": ["car", ""]}, "class_names: expected a list"),
        ({"class_names": []}, "class_names: expected 1 to 1000, got 0"),
        ({"class_names": ["car"] * 100_000}, "class_names: expected 1 to 1000, got 100000"),
        ({"dense_names": "car"}, "dense_names: expected a list of printable words"),
        ({"dense_names": []}, "dense_names: expected 1 to 1000, got 0"),
        ({"class_names": None, "heads": None}, "its header has no class_names, heads"),
        ({"heads": DEEP}, "expected heads"),
        ({"heads": {"seed": 1}}, "expected heads"),
        ({"notes": [1]}, "notes: expected a mapping"),
        ({"decode": [1]}, "decode: expected a mapping"),
        ({"decode": {"seed_threshold": float("nan")}}, "decode.seed_threshold: expected a value"),
        ({"decode": {"seed_threshold": 10**400}}, "decode.seed_threshold: expected float"),
        ({"decode": {"min_pixels": "7"}}, "decode.min_pixels: expected int"),
        ({"decode": {"first_come": 1}}, "decode.first_come: expected bool"),
        ({"input": {"height": -1}}, "input.height: expected a value from 0"),
        ({"input": {"mirror": True}}, "input.mirror cannot be set by weights"),
        ({"format": 5}, "expected a header of format"),
    ],
    ids=range(28),
)
def test_a_header_is_believed_entry_by_entry(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    path = with_header(tmp_path / "w.safetensors", **changes)
    with pytest.raises(WeightsError, match=said) as refused:
        load_checkpoint(path)
    assert str(refused.value).startswith(f"weights {path}: ")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("header", ["5", "[1]", "[" * 100_000, "{", '"x"', "null"])
def test_a_header_that_is_no_mapping_is_named(tmp_path: Path, header: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, path, {HEADER_KEY: header})
    for read in (describe, load_checkpoint):
        with pytest.raises(WeightsError, match=r"expected a header of format|not a readable"):
            read(path)


WEIGHT = "encoder.initial_block.conv.weight"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (WEIGHT, lambda t: t.fill_(float("nan")), f"1 not numbers.*: {WEIGHT}"),
        (WEIGHT, lambda t: t / 0, f"1 not numbers.*: {WEIGHT}"),
        ("encoder.initial_block.bn.running_var", lambda t: t - 9, "variances below 0"),
        (WEIGHT, lambda t: t.to(torch.int32), f"1 of another type: {WEIGHT}: torch.int32"),
        (WEIGHT, lambda t: t.flatten(), f"1 misshapen: {WEIGHT}"),
        ("decoders.1.output_conv.bias", lambda t: torch.zeros(1).expand(10**9), "1000000000"),
        ("decoders.0.output_conv.bias", lambda t: torch.tensor(1.0), "1 or 2 bandwidths"),
        (WEIGHT, lambda t: torch.zeros(1).expand(10**6, 10**6), "1 misshapen"),
        (WEIGHT, lambda t: t.to_sparse(), "expected tensors by name"),
        (3, lambda t: torch.zeros(1), "expected tensors by name"),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("suffix", [pytest.param("pth", marks=pytest.mark.newest), "safetensors"])
def test_tensors_that_no_network_can_use_are_named(
    tmp_path: Path, name: str, change: object, said: str, suffix: str
) -> None:
    """Views and odd names are for torch's files alone."""
    path = tmp_path / f"w.{suffix}"
    tensors = {k: t.clone() for k, t in chance().tensors.items()}
    tensors[name] = change(tensors.get(name))  # type: ignore[operator]
    odd = tensors[name]
    if suffix == "pth":
        torch.save({"model_state_dict": tensors}, path)
    elif isinstance(name, str) and odd.layout is torch.strided and odd.numel() < 10**6:
        save_checkpoint(replace(chance(), tensors=tensors), path)
        said = said.replace("1 or 2 bandwidths", "1 misshapen")
    else:
        return
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(chance(), path)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged: the tensors differ"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody_of_this_name/w.pth", "/", ""])
def test_names_that_can_be_no_file_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="neither a shipped name"):
        describe(name)


@pytest.mark.parametrize(
    ("version", "refused"),
    [
        ("2.9.1+cu128", True),
        ("2.5.0a0+872d972e41.nv24.08", True),
        ("2.10.0", False),
        ("3.0.0", False),
    ],
)
def test_a_torch_with_holes_reads_safetensors_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, refused: bool
) -> None:
    torch.save({"model_state_dict": chance().tensors}, tmp_path / "w.pth")
    save_checkpoint(chance(), tmp_path / "w.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    assert load_checkpoint(tmp_path / "w.safetensors")
    if not refused:
        assert load_checkpoint(tmp_path / "w.pth")
        return
    with pytest.raises(WeightsError, match=r"CVE-2025-32434.*instaseg export .* --to safetensors"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.newest
def test_a_refused_pickle_does_not_pass_on_torchs_advice(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"model_state_dict": Path("x")}, protocol=2))
    with pytest.raises(WeightsError, match="cannot read it as plain tensors") as refused:
        load_checkpoint(tmp_path / "w.pth")
    assert "weights_only" not in str(refused.value)


def test_weights_that_are_not_free_say_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "instaseg_ros"):
        load_checkpoint("street-synthetic")
        assert not caplog.messages
        load_checkpoint("street")
    assert caplog.messages == [
        "weights street: licence 'non-commercial: trained on Cityscapes; see street.md'"
    ]

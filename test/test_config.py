"""Configuration: one tree, checked overrides, faithful round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from instaseg_ros.config import Config, dump, load, merge, parameters, parse_assignments
from instaseg_ros.errors import ConfigError


def test_dotted_and_nested_overrides_agree() -> None:
    dotted = merge(Config(), {"decode.min_pixels": 7, "decode.seed_threshold": 1})
    nested = merge(Config(), {"decode": {"min_pixels": 7, "seed_threshold": 1.0}})
    assert dotted == nested
    assert dotted.decode.min_pixels == 7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decode.min_pixel": 3}, "did you mean 'decode.min_pixels'"),
        ({"decoder": {}}, "did you mean 'decode'"),
        ({"decode.seed_threshold": 1.5}, "from 0.0 to 1.0, got 1.5"),
        ({"decode.seed_threshold": float("nan")}, "got nan"),
        ({"decode.min_pixels": 2.5}, "expected int, got float"),
        ({"decode.min_pixels": True}, "expected int, got bool"),
        ({"decode": 3}, "decode: expected a mapping"),
        ({"runtime.name": "abacus"}, "expected one of auto"),
        ({"weights.file": "x"}, "'weights' has no parts"),
    ],
)
def test_a_bad_override_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        merge(Config(), overrides)


def test_dump_and_load_give_the_same_tree(tmp_path: Path) -> None:
    config = merge(Config(), {"train.learning_rate": "1e-3", "weights": "mine.safetensors"})
    assert config.train.learning_rate == 1e-3
    (tmp_path / "c.yaml").write_text(dump(config))
    assert load(tmp_path / "c.yaml") == config


def test_a_ros_parameter_file_loads(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("/**:\n  ros__parameters:\n    decode:\n      min_pixels: 5\n")
    assert load(tmp_path / "c.yaml").decode.min_pixels == 5


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file"):
        load(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not readable as YAML"):
        load(tmp_path / "bad.yaml")


def test_assignments_are_typed() -> None:
    assert parse_assignments(["decode.min_pixels=3", "weights=a=b"]) == {
        "decode.min_pixels": 3,
        "weights": "a=b",
    }
    with pytest.raises(ConfigError, match="expected name=value"):
        parse_assignments(["decode.min_pixels"])


def test_every_default_is_inside_its_own_range_and_described() -> None:
    leaves = list(parameters(Config()))
    assert merge(Config(), {p.name: p.value for p in leaves}) == Config()
    assert all(p.help for p in leaves)

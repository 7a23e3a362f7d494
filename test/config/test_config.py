"""Configuration: one tree, checked overrides, faithful round trip."""

from __future__ import annotations

import re
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
        ({"cameras": "front, left"}, "cameras: expected a list of str, got 'front, left'"),
        ({"cameras": ["front", 1]}, "cameras: expected a list of str"),
        ({"cameras": []}, "cameras: expected 1 to 32 different names"),
        ({"cameras": ["front", "front"]}, "different names"),
        ({"cameras": ["front", ""]}, "[''] for one camera without a name, got ['front', '']"),
        ({"cameras": ["1st"]}, "each a letter followed by"),
        ({"cameras": ["rig/front"]}, "each a letter followed by"),
        ({"cameras": ["x" * 64]}, "at most 62"),
        ({"cameras": [f"c{n}" for n in range(33)]}, "1 to 32"),
    ],
)
def test_a_bad_override_is_named(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        merge(Config(), overrides)


def test_dump_and_load_give_the_same_tree(tmp_path: Path) -> None:
    given = {"train.learning_rate": "1e-3", "weights": "mine.safetensors", "cameras": ["front"]}
    config = merge(Config(), given)
    assert config.cameras == ("front",)
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


def laughs() -> bytes:
    """A list of ten lists of ten lists of ..."""
    levels = [b"&a [%s]" % b", ".join([b"1"] * 10)]
    for k in range(9):
        levels.append(b"&%c [%s]" % (98 + k, b", ".join([b"*%c" % (97 + k)] * 10)))
    return b"weights: [%s]" % b", ".join(levels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"weights: \xe9", "not readable as YAML"),
        (b"weights: \0", "not readable as YAML"),
        (b"weights: 2020-13-45", "not readable as YAML: .*month"),
        (b"decode: {min_pixels: %s}" % (b"9" * 5000), "digits|expected a value"),
        (b"decode: {seed_threshold: %s}" % (b"9" * 400), "decode.seed_threshold: expected float"),
        (b"=", "not readable as YAML"),
        (b"? {a: 1}\n: 2", "not readable as YAML"),
        (b"a: " + b"[" * 5000, "not readable as YAML: RecursionError"),
        (laughs(), "at most 10000 values"),
        (b"&a\ndecode: *a", "at most 10000 values"),
        (b"weights: street #" + b"x" * (1 << 18), "at most 262144 bytes"),
        (b'weights: "a\\0b"', "weights: expected no control characters"),
        (b"weights: !!python/object/apply:os.system [true]", "not readable as YAML"),
        (b"weights:", "weights: expected str, got nothing; an empty text is written ''"),
        (b"input: {height: }", "input.height: expected int, got nothing"),
        (b"weights: {a: {b: {c: {d: {e: 1}}}}}", r"weights: expected str, got dict .*\.\.\."),
        (b"input:", "input: expected a mapping, got None"),
    ],
    ids=range(17),
)
def test_a_file_that_is_no_configuration_is_a_sentence(
    tmp_path: Path, text: bytes, said: str
) -> None:
    (tmp_path / "c.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=said) as refused:
        load(tmp_path / "c.yaml")
    assert str(refused.value).startswith(f"config file {tmp_path / 'c.yaml'}: ")
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "/instaseg_node:\n  ros__parameters: {decode: {min_pixels: 5}}",
        "instaseg_node:\n  ros__parameters: {decode.min_pixels: 5}",
        "/front/instaseg_node:\n  ros__parameters: {decode: {min_pixels: 5}}",
        "front:\n  instaseg_node:\n    ros__parameters: {decode: {min_pixels: 5}}",
        "/front/labeller:\n  ros__parameters: {decode: {min_pixels: 5}}",  # alone: under any name
        "/*:\n  ros__parameters: {decode: {min_pixels: 5}}",
        "/**/instaseg_node:\n  ros__parameters: {decode: {min_pixels: 5}}",
        "/**:\n  ros__parameters: {decode: {min_pixels: 3}}\n"
        "instaseg_node:\n  ros__parameters: {decode: {min_pixels: 5}}\n"
        "camera_driver:\n  ros__parameters: {exposure: 3}",
        "/**:\n  ros__parameters: {use_sim_time: true, qos_overrides: {/a: {depth: 1}}, decode: "
        "{min_pixels: 5}}",
    ],
)
def test_parameter_files_of_nodes_load_by_the_names_of_their_sections(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert load(tmp_path / "c.yaml") == merge(Config(), {"decode.min_pixels": 5})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/**:", r"'/\*\*': expected 'ros__parameters' of a node, got None"),
        ("/**: [1, 2]", r"expected 'ros__parameters' of a node, got \[1, 2\]"),
        ("/**: {ros__parameters: [1]}", r"expected a mapping of parameters, got \[1\]"),
        ("/a: {b: 3}", "'/a/b': expected 'ros__parameters' of a node, got 3"),
        ("/**: {ros__parameters: {decod: {}}}", "did you mean 'decode'"),
        (
            "/front/instaseg_node: {ros__parameters: {}}\n"
            "/rear/instaseg_node: {ros__parameters: {}}",
            "of one node, got /front/instaseg_node, /rear/instaseg_node",
        ),
    ],
)
def test_a_parameter_file_that_no_node_could_take_is_named(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "c.yaml")


def test_a_parameter_file_whose_lines_were_all_removed_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("/**:\n  ros__parameters:\n    # weights: street\n")
    assert load(tmp_path / "c.yaml") == Config()


def test_assignments_are_typed() -> None:
    assert parse_assignments(["decode.min_pixels=3", "weights=a=b"]) == {
        "decode.min_pixels": 3,
        "weights": "a=b",
    }
    with pytest.raises(ConfigError, match="expected name=value"):
        parse_assignments(["decode.min_pixels"])
    with pytest.raises(ConfigError, match=r"--set x=\[: not readable as YAML"):
        parse_assignments(["x=["])


def test_every_default_is_inside_its_own_range_and_described() -> None:
    leaves = list(parameters(Config()))
    assert merge(Config(), {p.name: p.value for p in leaves}) == Config()
    assert all(p.help for p in leaves)

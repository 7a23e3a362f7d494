"""Seconds of `make fuzz`, always the same inputs; and that it notices what goes wrong."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import driver
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from instaseg_ros.checkpoint import FORMAT, HEADER_KEY, describe
from instaseg_ros.config import Config, dump, merge, parameters
from instaseg_ros.errors import InstasegError

INPUTS = {"configuration": 150, "weights": 60, "decode": 300, "images": 500}
SLOW = {"decode"}  # compiles every kernel, with checks
BROKEN = """
import os, time
from instaseg_ros.errors import ConfigError

MEMORY_MB, PATIENCE_S = 300, 5

def seeds():
    return [b"0"]

def mutate(rng, seeds):
    return b"%d" % rng.randrange(6)

def feed(data, folder):
    if data == b"1":
        raise ConfigError("a sentence")
    if data == b"2":
        raise KeyError("x")
    if data == b"3":
        os.abort()
    if data == b"4":
        bytearray(1 << 30)
    if data == b"5":
        time.sleep(60)
"""


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in driver.targets()
    ],
)
def test_nothing_but_sentences(target: str, tmp_path: Path) -> None:
    count = INPUTS.get(target, 200)
    tally = driver.fuzz(target, 0, tmp_path, inputs=count)
    assert not tally.failures
    assert tally.inputs == count and tally.accepted


def test_what_goes_wrong_is_counted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    tally = driver.fuzz("broken", 3, tmp_path / "kept", inputs=10)
    found = {Path(path).read_bytes(): what.partition(":")[0] for what, path in tally.failures}
    assert found == {
        b"2": "KeyError",
        b"3": "ended with -6",
        b"4": "MemoryError",
        b"5": "ended with -9",
    }
    assert tally.inputs == 10 and tally.refused and tally.accepted
    sys.modules.pop("of_broken")


NAMES = [leaf.name for leaf in parameters(Config())] + ["train", "input", "decode", "weights.x", ""]
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**400), "street", "auto", 0.5, 1, 2])
)
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(NAMES), TREES, max_size=4))
def test_any_overrides_are_taken_or_a_sentence(overrides: dict[str, Any]) -> None:
    try:
        config = merge(Config(), overrides)
    except InstasegError as error:
        assert len(str(error)) < 1000
        return
    assert merge(config, {leaf.name: leaf.value for leaf in parameters(config)}) == config
    assert dump(config)


HEADERS = st.fixed_dictionaries(
    {
        "format": st.just(FORMAT),
        "method": st.just("spatial_embedding") | TREES,
        "n_sigma": st.integers(1, 2) | TREES,
        "class_names": st.lists(st.just("car"), min_size=1, max_size=2) | TREES,
        "heads": TREES,
    },
    optional={
        "dimensions": st.integers(0, 256) | TREES,
        "profile": TREES,
        "decode": st.just({"min_pixels": 3}) | TREES,
        "input": st.just({"height": 32}) | TREES,
        "notes": st.just({}) | TREES,
        "other": TREES,
    },
)


@settings(max_examples=300)
@given(HEADERS)
def test_any_header_is_taken_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_file({"a": torch.zeros(1)}, path, {HEADER_KEY: json.dumps(header)})
    try:
        described = describe(path)
    except InstasegError as error:
        assert len(str(error)) < 1000
        return
    assert described.class_names and described.method_config.n_sigma in (1, 2)

"""The versions of what others rely on; docs/compatibility.md says what may change when.

Weights and packed datasets have theirs where they are written (`checkpoint.FORMAT`,
`datasets.packed.FORMAT`).
"""

from __future__ import annotations

import json

import instaseg_ros
from instaseg_ros.errors import ConfigError

INTERFACE = 1  # of the node's topics and parameters
RESULTS = {  # kind of result -> version of its content
    "bench": 1,  # JSON
    "comparison": 1,  # JSON
    "demo": 1,  # summary.json
    "detections": 1,  # a line of detections.jsonl
    "doctor": 1,  # JSON
    "evaluation": 1,  # JSON
    "live replay": 1,  # JSON
    "live report": 1,  # JSON
    "recording": 1,  # labelled .mcap
    "rows": 1,  # .parquet of an evaluated recording; the columns are in fleet/rows.py
    "training state": 1,  # state.pt
}


def written(kind: str) -> dict[str, str]:
    """The first entries of a result of this kind: its format, and what wrote it."""
    return {"format": format_of(kind), "version": instaseg_ros.__version__}


def format_of(kind: str) -> str:
    """As in "instaseg_ros evaluation 1"."""
    return f"instaseg_ros {kind} {RESULTS[kind]}"


def plain_json(facts: object) -> str:
    """JSON text with null for NaN, which JSON lacks."""
    return json.dumps(_without_nan(facts), indent=2, allow_nan=False) + "\n"


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def check_interface(number: int) -> None:
    """Raises ConfigError unless this package has this interface."""
    if number != INTERFACE:
        remedy = "update instaseg_ros" if number > INTERFACE else "see docs/compatibility.md"
        raise ConfigError(
            f"interface: expected {INTERFACE}, which this instaseg_ros has, got {number}: the "
            f"parameters are written for another version; {remedy}"
        )

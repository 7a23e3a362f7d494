"""Reads and writes the quality of service that publishers offered, as rosbag2 stores it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from instaseg_ros.config.file import parse_yaml
from instaseg_ros.recordings.recording import reason

RELIABILITIES = {1: "reliable", 2: "best_effort"}  # rosbag2 writes the number, newer ones the word
DURABILITIES = {1: "transient_local", 2: "volatile"}
LIVELINESSES = {1: "automatic", 3: "manual_by_topic"}
NUMBERS = {
    word: number
    for words in (RELIABILITIES, DURABILITIES, LIVELINESSES)
    for number, word in words.items()
}
KEEP_LAST = 1
DEPTH, MOST_DEPTH = 10, 1000  # messages; DDS does not tell the depth of others, which is then 0
MAX_TEXT = 1 << 16  # characters; a hundred publishers take a tenth
SECOND_NS, FOREVER_NS = 1_000_000_000, (1 << 63) - 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OfferedQos:
    """What one publisher offers. Times in nanoseconds; None: no limit."""

    reliability: str = "reliable"
    durability: str = "volatile"
    depth: int = DEPTH
    deadline_ns: int | None = None
    lifespan_ns: int | None = None
    liveliness: str = "automatic"
    lease_ns: int | None = None


LATCHED = OfferedQos(durability="transient_local", depth=1)


def to_text(offers: Iterable[OfferedQos]) -> str:
    """The YAML of different offers, in the form that every rosbag2 reads."""
    return "\n".join(map(_profile, dict.fromkeys(offers)))


def offer_from(profile: Mapping[str, Any]) -> OfferedQos:
    """An offer from rosbag2's fields of a profile; what is missing or unknown is as usual."""
    depth = int(profile.get("depth", 0))
    return OfferedQos(
        _word(profile.get("reliability"), RELIABILITIES),
        _word(profile.get("durability"), DURABILITIES, "volatile"),
        min(depth, MOST_DEPTH) if depth > 0 else DEPTH,
        _limit_ns(profile.get("deadline")),
        _limit_ns(profile.get("lifespan")),
        _word(profile.get("liveliness"), LIVELINESSES),
        _limit_ns(profile.get("liveliness_lease_duration")),
    )


def read_offer(text: str) -> OfferedQos | None:
    """One offer that suits every subscriber which the recorded publishers suited; None if the text
    is empty or cannot be used.

    Of several publishers' offers it has the more demanding of each policy, as a publisher that
    offers more suits everybody who asks for less.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} characters, expected at most {MAX_TEXT}")
        profiles = parse_yaml(text)
        offers = [offer_from(profile) for profile in profiles or ()]
    except Exception as error:  # from yaml, TypeError, ValueError, ... depending on the damage
        log.warning("recorded QoS %.80r cannot be used: %s", text, reason(error))
        return None
    if not offers:
        return None
    lifespans_ns = [one.lifespan_ns for one in offers if one.lifespan_ns is not None]
    return OfferedQos(
        _any(offers, "reliability", "reliable", "best_effort"),
        _any(offers, "durability", "transient_local", "volatile"),
        max(one.depth for one in offers),
        _shortest(one.deadline_ns for one in offers),
        max(lifespans_ns) if len(lifespans_ns) == len(offers) else None,
        _any(offers, "liveliness", "manual_by_topic", "automatic"),
        _shortest(one.lease_ns for one in offers),
    )


def _word(value: object, words: Mapping[int, str], usual: str | None = None) -> str:
    """The word for a policy: `value` is that or its number; otherwise the usual one."""
    usual = usual or words[1]
    if isinstance(value, int):
        return words.get(value, usual)
    return str(value) if value in words.values() else usual


def _limit_ns(value: Any) -> int | None:
    """Nanoseconds of {sec, nsec}; None where there is no limit, which is 0 or the largest time."""
    if not isinstance(value, Mapping):
        return None
    limit_ns = int(value.get("sec", 0)) * SECOND_NS + int(value.get("nsec", 0))
    # Early versions have the largest 32-bit numbers.
    return limit_ns if 0 < limit_ns < ((1 << 31) - 1) * SECOND_NS else None


def _any(offers: list[OfferedQos], policy: str, more: str, less: str) -> str:
    return more if any(getattr(one, policy) == more for one in offers) else less


def _shortest(limits_ns: Iterable[int | None]) -> int | None:
    return min((one for one in limits_ns if one is not None), default=None)


def _profile(offer: OfferedQos) -> str:
    return (
        f"- history: {KEEP_LAST}\n  depth: {offer.depth}\n"
        f"  reliability: {NUMBERS[offer.reliability]}\n"
        f"  durability: {NUMBERS[offer.durability]}\n"
        f"  deadline:{_time(offer.deadline_ns)}\n  lifespan:{_time(offer.lifespan_ns)}\n"
        f"  liveliness: {NUMBERS[offer.liveliness]}\n"
        f"  liveliness_lease_duration:{_time(offer.lease_ns)}\n"
        "  avoid_ros_namespace_conventions: false"
    )


def _time(limit_ns: int | None) -> str:
    seconds, rest = divmod(FOREVER_NS if limit_ns is None else limit_ns, SECOND_NS)
    return f"\n    sec: {seconds}\n    nsec: {rest}"

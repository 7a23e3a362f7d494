"""Finds the messages of a recording by the stamps in their headers, and pairs stamps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from instaseg_ros.errors import ImageError, TruncatedInputError
from instaseg_ros.recordings import message_types
from instaseg_ros.recordings.bags import deserialize
from instaseg_ros.recordings.storage import open_recording

# Cached by path, not in the objects that use it, which are sent to other processes.
opened = lru_cache(maxsize=4)(open_recording)


class MessagesByStamp:
    """The first message of each stamp on some topics of a recording.

    Opening reads the recording once and keeps only the times; a message is then found by the time
    of its receipt, in a file with an index (a file of a killed recorder is read from its start).

    see: called with the topic, time of receipt in nanoseconds and content of every first message.
    received: by topic and stamp, when the message was received, nanoseconds. left_out: what cannot
    be used, counted by reason. broken: why the recording ends early, in words.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[str],
        see: Callable[[str, int, Any], None] = lambda *_: None,
    ) -> None:
        self.path = path
        self.received: dict[str, dict[int, int]] = {topic: {} for topic in topics}
        self.left_out: Counter[str] = Counter()
        self.broken: list[str] = []
        for topic, received_ns, message in _messages(path, topics, self.left_out, self.broken):
            times = self.received[topic]
            stamp_ns = message_types.stamp_ns(message.header)
            if stamp_ns in times:
                self.left_out[f"messages of {topic} with the stamp of another"] += 1
                continue
            times[stamp_ns] = received_ns
            see(topic, received_ns, message)

    def find(self, wanted: Mapping[str, int]) -> dict[str, Any]:
        """Messages by topic, with the wanted stamp on each; less if the file has changed."""
        times = [self.received[topic][stamp_ns] for topic, stamp_ns in wanted.items()]
        found: dict[str, Any] = {}
        # By time; if the index has wrong times, by reading the whole file.
        for span_ns in ((min(times), max(times) + 1), ()):
            for topic, _, message in _messages(self.path, list(wanted), Counter(), [], *span_ns):
                if message_types.stamp_ns(message.header) == wanted[topic]:
                    found.setdefault(topic, message)
                    if len(found) == len(wanted):
                        return found
        return found


def nearest(wanted: Sequence[int], offered: Sequence[int], tolerance_ns: int) -> list[int]:
    """For each wanted stamp the index of the offered one that belongs to it, -1 without.

    wanted, offered: ascending, nanoseconds. Stamps at most `tolerance_ns` apart belong together,
    the nearest first (of equally near ones the earliest), each once.
    """
    partner = [-1] * len(wanted)
    ours, theirs = np.asarray(wanted, np.int64), np.asarray(offered, np.int64)
    first = np.searchsorted(theirs, ours - tolerance_ns, "left").tolist()
    last = np.searchsorted(theirs, ours + tolerance_ns, "right").tolist()
    pairs = [
        (abs(wanted[i] - offered[j]), i, j)
        for i, span in enumerate(zip(first, last, strict=True))
        for j in range(*span)
    ]
    taken: set[int] = set()
    for _, i, j in sorted(pairs):
        if partner[i] < 0 and j not in taken:
            partner[i] = j
            taken.add(j)
    return partner


def _messages(
    path: Path,
    topics: Sequence[str],
    left_out: Counter[str],
    broken: list[str],
    *span_ns: int,
) -> Iterator[tuple[str, int, Any]]:
    """Topic, time of receipt and message of all that can be read; the rest is counted, or described
    in `broken`."""
    recording = opened(path)
    try:
        for raw in recording.messages(topics, *span_ns):
            try:
                message = deserialize(raw, recording.topics[raw.topic].type)
            except ImageError:
                left_out[f"messages of {raw.topic} that cannot be read"] += 1
            else:
                yield raw.topic, raw.received_ns, message
    except TruncatedInputError as error:
        broken.append(str(error))

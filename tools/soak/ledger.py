"""Accounts for every image of a camera, from roll call to roll call. Needs no ROS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

RECEIVED, LABELLED, DROPPED, IGNORED, LOST, REFUSED, FAILED = COUNTED = (
    "received",
    "labelled",
    "dropped while busy",
    "ignored while disabled",
    "lost on the way",
    "refused",
    "failed",
)
FATES = (LABELLED, DROPPED, IGNORED, REFUSED, FAILED)
NOTHING: Mapping[str, int] = dict.fromkeys(COUNTED, 0)
UNACCOUNTED = "the count is wrong"  # so such a finding begins
MOST_IN_WORK = 3  # waiting, in the network, being published
Counts = Mapping[str, int]


@dataclass
class Account:
    """What a camera published, what the node says became of it, and the labels that came.

    At a roll call nothing is under way. The node's counts begin anew when it is activated; what it
    counted before that and had not yet said is lost to us.
    """

    name: str
    published: int = 0
    bad: int = 0
    labels: int = 0
    disturbed: bool = False  # since the last roll call publisher or subscription was another
    roll_calls: int = 0
    exact: int = 0  # of these, with nothing disturbed before
    totals: dict[str, int] = field(default_factory=lambda: dict(NOTHING))
    _before: dict[str, int] = field(default_factory=lambda: dict(NOTHING))  # earlier activations
    _said: Counts = field(default_factory=lambda: NOTHING)
    _last: dict[str, int] = field(default_factory=dict)  # at the last roll call

    def diagnosed(self, counts: Counts) -> Iterator[str]:
        """The node says these counts; yields what is wrong with them."""
        self._said = counts
        self.totals = {name: self._before[name] + counts[name] for name in COUNTED}
        if not 0 <= in_work(counts) <= MOST_IN_WORK:
            yield (
                f"{UNACCOUNTED}, {in_work(counts)} images are in work, expected 0 to "
                f"{MOST_IN_WORK}. {self.name}: {dict(counts)}"
            )

    def activated(self) -> None:
        """The node counts from zero."""
        self._before, self._said, self.disturbed = dict(self.totals), NOTHING, True

    def complete(self) -> bool:
        """Whether all that was published is accounted for, as far as it can be."""
        now = self._now()
        arrived = self._since(now, RECEIVED) + self._since(now, LOST)
        all_there = self.disturbed or (
            arrived >= self._since(now, "published")
            and self._since(now, "labels") >= self._since(now, LABELLED)
        )
        return all_there and in_work(self._said) == 0

    def roll_call(self) -> Iterator[str]:
        """Close the books since the last roll call; yields what does not add up."""
        now = self._now()
        since = {name: self._since(now, name) for name in now}
        facts = ", ".join(f"{count} {name}" for name, count in since.items() if count)
        said = f"{self.name}, since the last roll call: {facts}"
        if (left := in_work(self._said)) != 0:
            yield f"{UNACCOUNTED}, {left} images have no fate. {said}"
        arrived = since[RECEIVED] + since[LOST]
        if not self.disturbed and arrived != since["published"]:
            yield f"{UNACCOUNTED}, {arrived - since['published']:+d} came. {said}"
        if not self.disturbed and since["labels"] != since[LABELLED]:
            yield f"{UNACCOUNTED}, {since['labels'] - since[LABELLED]:+d} labels came. {said}"
        if since[FAILED]:
            yield f"images failed. {said}"
        if not self.disturbed:
            yield from self._of_bad_images(since, said)
        self.roll_calls += 1
        self.exact += not self.disturbed
        self._last, self.disturbed = now, False

    def _of_bad_images(self, since: Counts, said: str) -> Iterator[str]:
        if since[REFUSED] > since["bad"]:
            yield f"good images are refused. {said}"
        elif since["bad"] - since[REFUSED] > since[DROPPED] + since[IGNORED] + since[LOST]:
            yield f"bad images are not refused. {said}"

    def _now(self) -> dict[str, int]:
        own = {"published": self.published, "bad": self.bad, "labels": self.labels}
        return {**self.totals, **own}

    def _since(self, now: Counts, name: str) -> int:
        return now[name] - self._last.get(name, 0)


def in_work(counts: Counts) -> int:
    """Images received whose fate is not decided."""
    return counts[RECEIVED] - sum(counts[name] for name in FATES)


def counts_of(values: Mapping[str, str]) -> Counts | None:
    """The counts in a camera's status of /diagnostics; None while it has none."""
    if "images received" not in values:
        return None
    return {name: int(values[f"images {name}"]) for name in COUNTED}

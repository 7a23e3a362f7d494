"""Conducts a soak: faults for a while, a roll call, a quiet stretch; and again until the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from soak.faults import CAMERA, FAULTS, NODE, OUTPUT, Fault, first_time
from soak.journal import Journal
from soak.readings import read
from soak.rig import BrokenPromiseError, Rig, Waiting

ROUND_S = 20.0  # of faults, in which one starts every GAP_S on average
GAP_S = 0.4
QUIET_S = 8.0  # after them, in which latency and memory are compared over the run
SETTLE_S = 1.0
SAMPLE_EVERY_S = 1.0
START_S = 180.0
ROLL_CALL_S = 30.0  # until everything is accounted for, on a busy machine
SPIN_S = 0.02


class Running(NamedTuple):
    """A fault under way: what it occupies, and when it goes on."""

    needs: tuple[str, str]
    steps: Waiting
    at_s: float


class Conductor:
    """quiet: whether nothing is made to happen; the journal marks latency and readings with it.

    pace: faults take so much of their time.
    """

    def __init__(self, rig: Rig, journal: Journal, dice: Random, pace: float = 1.0) -> None:
        self._rig = rig
        self._journal = journal
        self._dice = dice
        self._pace = pace
        self._running: list[Running] = []
        self._sample_s = 0.0
        self._rounds = 0
        self.quiet = False

    def start(self, parameters: Sequence[str]) -> None:
        """Start node and cameras, and wait until all have found each other."""
        self._rig.start_node(parameters)
        self._rig.start_cameras()
        end_s = time.monotonic() + START_S
        while not self._rig.are_seen():
            if time.monotonic() > end_s:
                raise BrokenPromiseError(f"the node is not labelling after {START_S:g} s")
            self._go_on(0.2)
        self._rig.disturb()
        self._go_on(SETTLE_S)
        self.roll_call()

    def warm_up(self) -> None:
        """Let the node meet everything once."""
        self._running.append(Running((NODE, ""), first_time(self._rig), time.monotonic()))
        self._finish_faults()

    def soak(self, end_s: float) -> None:
        """Rounds of random faults until `time.monotonic()` is `end_s`. Nothing is disturbed in two
        of three, so that their accounts must be exact."""
        while time.monotonic() < end_s:
            self._rounds += 1
            faults = [f for f in FAULTS if not f.disturbs or self._rounds % 3 == 0]
            self.round(min(end_s, time.monotonic() + ROUND_S), self._random(faults))

    def each_once(self) -> None:
        """Every kind of fault once, first those that disturb nothing."""
        for disturbs in (False, True):
            every = [(fault, kind) for fault in FAULTS for kind in fault.kinds]
            every = [one for one in every if one[0].disturbs == disturbs]
            self._dice.shuffle(every)
            self.round(float("inf"), iter(every), SETTLE_S)

    def round(
        self, end_s: float, faults: Iterator[tuple[Fault, Any]], quiet_s: float = QUIET_S
    ) -> None:
        """Faults until `end_s` or their end; when all have ended, a roll call and quiet."""
        for fault, kind in faults:
            self._begin(fault, kind)
            self._go_on(self._dice.expovariate(1 / GAP_S) * self._pace)
            if time.monotonic() > end_s:
                break
        self._finish_faults()
        self.roll_call()
        self._go_on(SETTLE_S)
        self.quiet = True
        self._go_on(quiet_s)
        self._sample()
        self.quiet = False

    def watch(self, end_s: float) -> None:
        """Nothing but the cameras, until `time.monotonic()` is `end_s`."""
        self.quiet = True
        self._go_on(end_s - time.monotonic())
        self.quiet = False

    def finish(self) -> None:
        """Account for the last images."""
        self.roll_call()
        self._sample()

    def roll_call(self) -> None:
        """Let cameras pause, and account for every image of theirs."""
        rig = self._rig
        rig.tell(pause=True)
        self._go_on(SETTLE_S)
        before = rig.published()
        rig.tell(once=True)  # an image lost before this one is now known to be
        end_s = time.monotonic() + ROLL_CALL_S
        while any(b >= n for b, n in zip(before, rig.published(), strict=True)):
            self._go_on(SPIN_S)
            if time.monotonic() > end_s:
                raise RuntimeError("the cameras do not publish")
        rig.tally()
        diagnosed = rig.diagnosed
        while time.monotonic() < end_s:
            self._go_on(SPIN_S)
            if rig.diagnosed >= diagnosed + 2 and all(a.complete() for a in rig.accounts.values()):
                break
        for account in rig.accounts.values():
            rig.found += account.roll_call()
        rig.tell(pause=False)

    def _random(self, faults: Sequence[Fault]) -> Iterator[tuple[Fault, Any]]:
        weights = [fault.weight for fault in faults]
        while True:
            (fault,) = self._dice.choices(faults, weights)
            yield fault, self._dice.choice(fault.kinds)

    def _finish_faults(self) -> None:
        while self._running:
            self._go_on(SPIN_S)

    def _begin(self, fault: Fault, kind: Any) -> None:
        """Start a fault as soon as what it needs is free."""
        of_camera = fault.needs in (CAMERA, OUTPUT)
        cameras = [self._dice.choice(list(self._rig.accounts))] if of_camera else []
        needs = fault.needs, "".join(cameras)
        while any(NODE in (r.needs[0], fault.needs) or r.needs == needs for r in self._running):
            self._go_on(SPIN_S)
        steps = fault.run(self._rig, self._dice, *cameras, kind)
        self._journal.event(fault.name, " ".join([*cameras, "" if kind is None else str(kind)]))
        self._running.append(Running(needs, steps, time.monotonic()))

    def _go_on(self, seconds: float) -> None:
        """Let so much time pass."""
        end_s = time.monotonic() + seconds
        while True:
            for one in list(self._running):
                if one.at_s <= time.monotonic():
                    self._running.remove(one)
                    try:
                        wait_s = next(one.steps)
                    except StopIteration:
                        continue
                    self._running.append(one._replace(at_s=time.monotonic() + wait_s * self._pace))
            if time.monotonic() >= self._sample_s:
                self._sample()
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            self._rig.spin(min(SPIN_S, left_s))

    def _sample(self) -> None:
        rig = self._rig
        rig.check_processes()
        rig.look_at_publishers()
        rig.tally()
        assert rig.node is not None
        self._sample_s = time.monotonic() + SAMPLE_EVERY_S
        self._journal.sample(read(rig.node.pid), rig, self.quiet)

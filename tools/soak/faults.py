"""The faults of a soak: what goes wrong on a vehicle, for a while, and ends as it began.

A fault is a generator function that takes the rig and the dice, and yields for how many seconds to
wait before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from soak.cameras import QOS, STAMPS
from soak.images import BAD_COMPRESSED, BAD_RAW
from soak.rig import OUTPUTS, BrokenPromiseError, Rig, Waiting

SETTLE_S = 0.3
TOUR_S = 1.5  # at each size
CAMERA, OUTPUT, PARAMETERS, NODE = "camera", "output", "parameters", "node"
SCALE, TRACKING = "input.scale", "tracking.enabled"
# With the cameras' own size and scale, few enough for the network that a runtime keeps them all.
SIZES = ((96, 192), (95, 189))
# Live parameters with values between which they change, and their own.
GOOD: dict[str, tuple[list[Any], Any]] = {
    "decode.seed_threshold": ([0.5, 0.7, 0.95], 0.8),
    "decode.min_pixels": ([0, 400], 64),
    TRACKING: ([True], False),
    "node.overlay_alpha": ([0.0, 1.0], 0.5),
    "node.keep_up": (["evenly"], "newest"),
    "node.latency_budget_ms": ([1.0, 500.0], 0.0),
    "node.stale_after_s": ([0.5], 2.0),
    SCALE: ([0.75], 1.0),
}
# Each must be refused while the node is configured.
BAD: list[tuple[str, Any]] = [
    ("decode.seed_threshold", 7.0),
    ("decode.seed_threshold", float("nan")),
    ("decode.min_pixels", -1),
    ("decode.min_pixels", "many"),
    ("node.keep_up", "oldest"),
    ("node.image_transport", "compressed"),
    ("weights", "no such weights"),
    ("cameras", ["front"]),
    ("input.height", 64),
    ("runtime.threads", 3),
    ("input.scale", 0.0),
]


class Fault(NamedTuple):
    """weight: how often it comes, compared with others. kinds: given to `run`, one at a time.
    needs: what it has for itself; CAMERA and OUTPUT are of one camera, which is given to `run`, and
    NODE is everything. disturbs: a publisher or subscription is replaced, so that images are lost
    unseen."""

    name: str
    weight: float
    run: Callable[..., Waiting]
    needs: str
    kinds: tuple[Any, ...] = (None,)
    disturbs: bool = False


def tour(rig: Rig) -> Waiting:
    """Once through all sizes that the network sees in a soak, of one image and of several at once:
    a runtime keeps memory for each."""
    (smaller,), _ = GOOD[SCALE]
    rig.tell(together=True)
    for scale in (smaller, 1.0):
        yield from _accepted(rig, SCALE, scale)
        for size in (*SIZES, rig.size):
            for camera in rig.accounts:
                rig.tell(camera=camera, size=size)
            yield TOUR_S
    rig.tell(together=False)


def first_time(rig: Rig) -> Waiting:
    """The tour, and every output watched and tracking on for a moment: what is used for the first
    time takes memory once."""
    yield from tour(rig)
    yield from _accepted(rig, TRACKING, True)
    watched = [rig.watch(camera, output, False) for camera in rig.accounts for output in OUTPUTS]
    yield 2 * TOUR_S
    for subscription in watched:
        rig.destroy_subscription(subscription)
    yield from _accepted(rig, TRACKING, False)


def bad_images(rig: Rig, dice: Random, camera: str, kind: str) -> Waiting:
    count = dice.randint(1, 8)
    rig.tell(camera=camera, bad=kind, images_bad=count)
    yield count / 10 + SETTLE_S
    rig.tell(camera=camera, images_bad=0)


def wrong_stamps(rig: Rig, dice: Random, camera: str, kind: str) -> Waiting:
    rig.tell(camera=camera, stamps=kind, images_misdated=dice.randint(1, 15))
    yield dice.uniform(0.5, 2)
    rig.tell(camera=camera, images_misdated=0)


def silence(rig: Rig, dice: Random, camera: str, kind: None) -> Waiting:
    rig.tell(camera=camera, silent=True)
    yield dice.uniform(0.5, 6)
    rig.tell(camera=camera, silent=False)


def other_size(rig: Rig, dice: Random, camera: str, kind: tuple[int, int]) -> Waiting:
    rig.tell(camera=camera, size=kind)
    yield dice.uniform(0.5, 4)
    rig.tell(camera=camera, size=rig.size)


def other_qos(rig: Rig, dice: Random, camera: str, kind: str) -> Waiting:
    rig.disturb(camera)
    rig.tell(camera=camera, qos=kind)
    yield dice.uniform(1, 4)
    rig.tell(camera=camera, qos="reliable")
    yield 1.0  # until the node has followed


def restarted_publisher(rig: Rig, dice: Random, camera: str, kind: None) -> Waiting:
    rig.disturb(camera)
    rig.tell(camera=camera, restarted=dice.getrandbits(30))
    yield 1.0


def killed_cameras(rig: Rig, dice: Random, kind: None) -> Waiting:
    rig.disturb()
    rig.kill_cameras()
    yield dice.uniform(0, 3)
    before = rig.published()
    rig.start_cameras()
    while rig.published() == before:
        yield 0.1
    yield from _until_seen(rig)


def good_parameter(rig: Rig, dice: Random, kind: str) -> Waiting:
    values, usual = GOOD[kind]
    yield from _accepted(rig, kind, dice.choice(values))
    yield dice.uniform(0.5, 4)
    yield from _accepted(rig, kind, usual)


def bad_parameter(rig: Rig, dice: Random, kind: tuple[str, Any]) -> Waiting:
    name, value = kind
    reason = yield from rig.ask_to_set(name, value)
    if not reason:
        raise BrokenPromiseError(f"{name} = {value!r} was accepted")


def subscriber(rig: Rig, dice: Random, camera: str, kind: str) -> Waiting:
    subscription = rig.watch(camera, kind, dice.random() < 0.5)
    yield dice.uniform(0.2, 5)
    rig.destroy_subscription(subscription)


def disabled(rig: Rig, dice: Random, kind: None) -> Waiting:
    yield from rig.enable(False)
    yield dice.uniform(0.2, 3)
    yield from rig.enable(True)


def deactivated(rig: Rig, dice: Random, kind: None) -> Waiting:
    rig.disturb()
    yield from rig.change_state("deactivate")
    yield dice.uniform(0, 2)
    yield from rig.change_state("configure", possible=False)
    yield from rig.change_state("activate")
    yield from _until_seen(rig)


def reconfigured(rig: Rig, dice: Random, kind: None) -> Waiting:
    yield from _configured_anew(rig, dice)


def compressed_images(rig: Rig, dice: Random, kind: None) -> Waiting:
    """All cameras send JPEG for a while, bad ones too."""
    yield from _configured_anew(rig, dice, transport="compressed")
    for bad in BAD_COMPRESSED:
        rig.tell(camera=dice.choice(list(rig.accounts)), bad=bad, images_bad=dice.randint(1, 3))
        yield dice.uniform(0.3, 1)
    for camera in rig.accounts:
        rig.tell(camera=camera, images_bad=0)
    yield from _configured_anew(rig, dice, transport="raw")


FAULTS = (
    Fault("bad images", 8, bad_images, CAMERA, tuple(BAD_RAW)),
    Fault("stamps", 4, wrong_stamps, CAMERA, ("still", *STAMPS)),
    Fault("camera silent", 3, silence, CAMERA),
    Fault("another size", 3, other_size, CAMERA, SIZES),
    Fault("another QoS", 2, other_qos, CAMERA, tuple(q for q in QOS if q != "reliable"), True),
    Fault("publisher restarted", 2, restarted_publisher, CAMERA, disturbs=True),
    Fault("cameras killed", 0.5, killed_cameras, NODE, disturbs=True),
    Fault("good parameter", 4, good_parameter, PARAMETERS, tuple(GOOD)),
    Fault("bad parameter", 4, bad_parameter, PARAMETERS, tuple(BAD)),
    Fault("subscriber", 8, subscriber, OUTPUT, tuple(OUTPUTS)),
    Fault("disabled", 2, disabled, PARAMETERS),
    Fault("deactivated", 1, deactivated, NODE, disturbs=True),
    Fault("configured anew", 0.5, reconfigured, NODE, disturbs=True),
    Fault("compressed images", 0.25, compressed_images, NODE, disturbs=True),
)


def _accepted(rig: Rig, name: str, value: Any) -> Waiting:
    if reason := (yield from rig.ask_to_set(name, value)):
        raise BrokenPromiseError(f"{name} = {value!r} was refused: {reason}")


def _configured_anew(rig: Rig, dice: Random, transport: str = "") -> Waiting:
    rig.disturb()
    yield from rig.change_state("deactivate")
    yield from rig.change_state("cleanup")
    yield dice.uniform(0, 1)
    if transport:
        yield from _accepted(rig, "node.image_transport", transport)
        for camera in rig.accounts:
            rig.tell(camera=camera, compressed=transport == "compressed")
    yield from rig.change_state("configure")
    yield from rig.change_state("activate")
    yield from _until_seen(rig)
    yield from tour(rig)


def _until_seen(rig: Rig) -> Waiting:
    """Until cameras, node and recorder have found each other."""
    for _ in range(600):
        if rig.are_seen():
            yield 1.0  # the publisher knows the subscription before that knows the publisher
            return
        yield 0.1
    raise BrokenPromiseError("node and cameras do not find each other within 60 s")

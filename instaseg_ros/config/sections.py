"""The sections of parameters that no method owns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from instaseg_ros.config.options.schema import param, shown
from instaseg_ros.errors import ConfigError

MOST_CAMERAS = 32  # whose past is kept; a temporal network's state takes 8 MB for a 2 MP camera
CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")  # part of a ROS topic that is not hidden


@dataclass(frozen=True, slots=True)
class InputConfig:
    """How the camera image is scaled for the network; unchanged by default."""

    height: int = param(
        0, "network input height in pixels; 0: keep the aspect ratio", low=0, high=8192
    )
    width: int = param(
        0, "network input width in pixels; 0: keep the aspect ratio", low=0, high=8192
    )
    scale: float = param(
        1.0,
        "magnification, if neither is set, within min_height and max_height; 0.5: the network sees "
        "half of the camera's rows and columns",
        low=0.1,
        high=8.0,
        live=True,
    )
    min_height: int = param(
        0,
        "if height and width are 0, magnify images with fewer rows to this many",
        low=0,
        high=8192,
    )
    max_height: int = param(
        0,
        "if height and width are 0, shrink images with more rows to this many; 0: no limit",
        low=0,
        high=8192,
    )
    mirror: bool = param(False, "average with the mirrored image; takes twice the time")
    max_pixels: int = param(
        50_000_000,
        "refuse images with more pixels, before or after scaling, before they take memory",
        low=1,
        high=1 << 30,  # OpenCV's own limit
    )
    white_level: int = param(
        0,
        "16-bit sample value that is white, such as 4095 for a 12-bit camera; 0: 65535",
        low=0,
        high=65535,
    )
    rectified: bool = param(
        False,
        "what images are: true: rectified, so that camera_info's P holds for them; false: as the "
        "camera makes them, with its K and the lens' distortion",
    )


@dataclass(frozen=True, slots=True)
class DepthConfig:
    """Depth images beside the camera's, from which the node tells where objects are in space."""

    enabled: bool = param(
        False, "subscribe to `depth`, and publish where objects are in space (detections_3d)"
    )
    transport: str = param(
        "raw",
        "raw: subscribe to `depth`; compressedDepth: to `depth/compressedDepth`",
        choices=("raw", "compressedDepth"),
    )
    slop_ms: float = param(
        20.0,
        "an image takes the depth of its exact stamp, else the nearest that is at most this far",
        low=0.0,
        high=10_000.0,
        live=True,
    )
    wait_ms: float = param(
        100.0,
        "labels are not held up: for this long after them, an image's depth may still come",
        low=0.0,
        high=10_000.0,
        live=True,
    )
    min_pixels: int = param(
        20,
        "objects with fewer pixels of known depth are left out of what is said about space",
        low=1,
        high=1_000_000,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """Ids that last from frame to frame.

    The defaults scored best on sequences of the synthetic street's training split, at 10 Hz and at
    3 Hz with a third of the images missing.
    """

    enabled: bool = param(False, "objects keep their ids from frame to frame", live=True)
    keep_s: float = param(
        2.0,
        "seconds for which a lost object's id is kept",
        low=0.0,
        high=60.0,
        live=True,
    )
    confirm_frames: int = param(
        1, "images in which an object is seen before it is published", low=1, high=100, live=True
    )
    camera_motion: bool = param(
        True,
        "measure the camera's own motion in the picture; not needed for a camera that stands still",
        live=True,
    )
    min_match: float = param(
        0.05,
        "least match of an instance with a known object: by the IoU of masks and nearness to the "
        "expected place, 1 at best; methods that learn an embedding compare that instead",
        low=0.0,
        high=1.0,
        live=True,
    )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """TensorRT engines: what they are built for."""

    best_batch: int = param(1, "batch size that an engine is tuned for", low=1, high=64)
    max_batch: int = param(4, "largest batch that an engine takes", low=1, high=64)
    workspace_mb: int = param(
        1024,
        "most GPU memory that TensorRT may use while building; more may find faster engines, but "
        "engines already built are kept: delete them to rebuild",
        low=16,
        high=1_000_000,
    )


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What executes the network."""

    name: str = param(
        "auto",
        "what runs the network",
        choices=("auto", "torch", "openvino", "onnx", "tensorrt", "torch2trt"),
    )
    device: str = param("auto", "auto, cpu, cuda or cuda:N")
    precision: str = param(
        "auto",
        "auto: the fastest the device supports; int8: the model made by `instaseg quantize`",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )
    threads: int = param(
        0,
        "CPU threads of the network, and of what is done with its outputs; 0: as many as there are "
        "cores for this process",
        low=0,
        high=1024,
    )
    compiled: bool = param(
        False, "torch on CUDA: also try AOTInductor, which compiles for minutes at the first start"
    )
    engine: EngineConfig = field(default_factory=EngineConfig)


def check_cameras(names: tuple[str, ...]) -> None:
    """Raise ConfigError unless these are names for a node's cameras."""
    fit = all(CAMERA_NAME.fullmatch(name) for name in names) and len(set(names)) == len(names)
    if names != ("",) and not (fit and 0 < len(names) <= MOST_CAMERAS):
        raise ConfigError(
            f"expected 1 to {MOST_CAMERAS} different names, each a letter followed by at most 62 "
            f"letters, digits and underscores, or [''] for one camera without a name, got "
            f"{shown(list(names))}"
        )


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The ROS node around the pipeline."""

    autostart: bool = param(
        False, "configure and activate at start, without waiting for a lifecycle manager"
    )
    image_transport: str = param(
        "raw",
        "raw: subscribe to `image`; compressed: to `image/compressed`",
        choices=("raw", "compressed"),
    )
    input_reliability: str = param(
        "auto",
        "reliability of the image subscription; auto: the publisher's",
        choices=("auto", "reliable", "best_effort"),
    )
    keep_up: str = param(
        "newest",
        "what is left out when more images come than can be labelled; newest: an image that waits "
        "while a newer one comes; evenly: all but every nth, so that labels come at even intervals",
        choices=("newest", "evenly"),
        live=True,
    )
    cpus: str = param(
        "",
        "processors for all threads of the node, such as 0-2,6 (for one alone: 3-3); '': all that "
        "it was started with",
    )
    niceness: int = param(
        0,
        "nice value of the threads that compute, not of those that receive images: 19 gives way to "
        "all other programs, below 0 needs the right to it; 0: as started",
        low=-20,
        high=19,
    )
    largest_batch: int = param(
        0,
        "most images, of different cameras, that are in the network at once; 0: up to four on a "
        "GPU, and on a CPU in OpenVINO, with at least one thread each; else one",
        low=0,
        high=8,
    )
    batch_wait_ms: float = param(
        0.0,
        "an image waits at most this long for those of other cameras to fill the batch, and only "
        "for cameras whose next one is due; 0: half the time that a batch takes",
        low=0.0,
        high=10_000.0,
    )
    stale_after_s: float = param(
        2.0,
        "seconds after which diagnostics call the camera, or the labels, stale",
        low=0.1,
        high=3600.0,
        live=True,
    )
    min_rate_hz: float = param(
        1.0,
        "diagnostics warn when fewer images per second are labelled although more come; 0: never",
        low=0.0,
        high=1000.0,
        live=True,
    )
    max_latency_s: float = param(
        1.0,
        "diagnostics warn when labels come later than this after their image",
        low=0.001,
        high=3600.0,
        live=True,
    )
    enabled: bool = param(
        True, "label images; the service ~/enable sets it. false: images are ignored", live=True
    )
    latency_budget_ms: float = param(
        0.0,
        "diagnostics warn when one image in a hundred is labelled later than this after its stamp; "
        "0: off",
        low=0.0,
        high=60_000.0,
        live=True,
    )
    rate_floor_hz: float = param(
        0.0,
        "diagnostics warn when fewer images per second are labelled, whatever the reason; 0: off",
        low=0.0,
        high=1000.0,
        live=True,
    )
    overlay_alpha: float = param(
        0.5, "opacity of the instance colours in the overlay", low=0.0, high=1.0, live=True
    )

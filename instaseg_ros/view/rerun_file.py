"""Records what a network thinks for Rerun, on the timeline of the frames' stamps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import Config
from instaseg_ros.errors import InstasegError, MissingExtraError
from instaseg_ros.files import OutputFile
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.view.clusters import described
from instaseg_ros.view.panels import directions, main_directions, names, votes
from instaseg_ros.view.scene import Scene, scene_of
from instaseg_ros.view.viewer import Viewed
from instaseg_ros.visualization import color

APPLICATION = "instaseg_ros"
JPEG_QUALITY = 90
PENDING_S = 60.0  # for the disk to take what is still in memory
OPACITY = 0.5
CLEAR = (0, "background", (0, 0, 0, 0))
FEWEST_IDS = 64  # whose colours are written at first
SEED_PT, LINE_PT = 4.0, 0.75  # radii on the screen, which Rerun takes as negative numbers
TITLES = {
    "camera": "image, label image, boxes",
    "network/seed": "seed: how sure each pixel is; the seeds",
    "network/offset": "offset: where each pixel points",
    "network/votes": "where they meet, and what each cluster claims",
    "network/bandwidth": "bandwidth: how far each pixel would claim, in pixels",
    "network/embedding": "embedding: its three main directions",
    "network/clusters": "clusters",
}


class RerunSink:
    """A `.rrd` file, which Rerun opens with its views arranged. Takes results of a `Viewer`.

    Needs rerun-sdk (extra `view`). Timelines: `stamp`, and `frame`, which counts from 0.
    """

    def __init__(
        self, path: Path, class_names: Sequence[str], config: Config, overwrite: bool
    ) -> None:
        self._rerun = _rerun()
        self._class_names = class_names
        self._least_score = getattr(config.decode, "foreground_threshold", 0.0)
        self._output = OutputFile(path, overwrite)
        self._recording = self._rerun.RecordingStream(APPLICATION)
        self._frames = 0
        self._known_ids = 0  # whose colours Rerun knows

    def write(self, frame: Frame, result: Result) -> None:
        if not isinstance(result, Viewed):
            raise TypeError(f"expected the result of a Viewer, got {type(result).__name__}")
        panels = names(result.outputs)
        if not self._frames:
            self._recording.save(self._output.part, self._blueprint(panels))
            self._log_classes()
        self._recording.set_time("stamp", timestamp=np.datetime64(frame.stamp_ns, "ns"))
        self._recording.set_time("frame", sequence=self._frames)
        self._frames += 1
        self._log_colors(np.concatenate([result.instances.ids, result.clusters.ids]))
        self._log_camera(frame, result.instances)
        scene = scene_of(
            frame.image,
            result.outputs,
            result.clusters,
            self._class_names,
            self._least_score,
            panel_px=0,
        )
        self._log_network(scene, panels)
        table = f"```text\n{described(result.clusters, self._class_names)}\n```"
        self._log("table", self._rerun.TextDocument(table, media_type="text/markdown"))

    def close(self) -> None:
        try:
            self._recording.flush(timeout_sec=PENDING_S)
        except Exception as error:  # from the thread that writes
            raise InstasegError(f"output {self._output.path} cannot be written: {error}") from error
        self._recording.disconnect()
        self._output.commit()

    def discard(self) -> None:
        self._recording.disconnect()
        self._output.discard()

    def _log(self, entity: str, *what: Any, static: bool = False) -> None:
        self._recording.log(entity, *what, static=static)

    def _log_colors(self, ids: NDArray[np.uint16]) -> None:
        """The colours of ids, up to the largest so far; static, as Rerun takes no others."""
        largest = max(int(ids.max(initial=0)), FEWEST_IDS)
        if largest <= self._known_ids:
            return
        self._known_ids = min(2 * largest, np.iinfo(np.uint16).max)
        each = range(1, self._known_ids + 1)
        known = [(label, str(label), (*color(label), 255)) for label in each]
        self._log("/", self._rerun.AnnotationContext([CLEAR, *known]), static=True)

    def _log_classes(self) -> None:
        """The names of the classes, of the values in `camera/classes`."""
        named = enumerate(self._class_names, 1)
        known = [(value, name, (*color(value), 255)) for value, name in named]
        context = self._rerun.AnnotationContext([CLEAR, *known])
        self._log("camera/classes", context, static=True)

    def _log_camera(self, frame: Frame, instances: Instances) -> None:
        self._log("camera/image", self._jpeg(frame.image))
        labels = self._rerun.SegmentationImage(instances.labels, opacity=OPACITY)
        self._log("camera/labels", labels)
        class_of = np.zeros(1 << 16, np.uint16)
        class_of[instances.ids] = instances.class_ids + 1
        classes = self._rerun.SegmentationImage(class_of[instances.labels], opacity=OPACITY)
        self._log("camera/classes", classes)
        self._log_boxes("camera/boxes", instances, with_names=False)

    def _log_network(self, scene: Scene, panels: Sequence[str]) -> None:
        """What there is of the panels: maps as maps, and what is drawn upon them as shapes."""
        rerun, ids = self._rerun, scene.clusters.ids
        self._log("network/image", self._jpeg(scene.image))
        if "seed" in panels:
            self._log_map("network/seed", scene.score(), (0.0, 1.0))
            seeds = rerun.Points2D(scene.seeds() + 0.5, class_ids=ids, radii=-SEED_PT)
            self._log("network/seed/seeds", seeds)
            self._log("network/offset", self._jpeg(directions(scene)))
            begins, ends = scene.arrows()
            arrows = rerun.Arrows2D(origins=begins + 0.5, vectors=ends - begins, radii=-LINE_PT)
            self._log("network/offset/arrows", arrows)
            self._log("network/votes", self._jpeg(votes(scene)))
            ellipses = rerun.Ellipses2D(
                centers=scene.clusters.centers_xy + 0.5,
                half_sizes=np.nan_to_num(scene.clusters.bandwidths),
                class_ids=ids,
            )
            self._log("network/votes/ellipses", ellipses)
            where, low, high = scene.claims()
            radius = np.where(where, scene.radius(), 0)
            self._log_map("network/bandwidth", radius, (low, high))
        if "embedding" in panels:
            self._log("network/embedding", self._jpeg(main_directions(scene)))
        self._log(
            "network/clusters", rerun.SegmentationImage(scene.clusters.labels, opacity=OPACITY)
        )
        self._log_boxes("network/clusters/boxes", scene.clusters, with_names=True)

    def _log_map(
        self, entity: str, values: NDArray[np.floating], bounds: tuple[float, float]
    ) -> None:
        """A value for each pixel, which Rerun shows in colour; half precision. The only archetype
        for that which shares a view with shapes is of depth."""
        image = self._rerun.DepthImage(
            np.minimum(values, np.finfo(np.float16).max).astype(np.float16),
            meter=1.0,
            colormap="viridis",
            depth_range=bounds,
        )
        self._log(entity, image)

    def _log_boxes(self, entity: str, instances: Instances, with_names: bool) -> None:
        """Boxes with names, which Rerun else shows when one points at them."""
        mins, maxs = np.split(instances.boxes_xyxy, 2, axis=1)
        class_names = [self._class_names[class_id] for class_id in instances.class_ids]
        rows = zip(class_names, instances.ids, instances.scores, strict=True)
        boxes = self._rerun.Boxes2D(
            mins=mins,
            sizes=maxs - mins,
            class_ids=instances.ids,
            labels=[f"{name} {label} {score:.2f}" for name, label, score in rows],
            show_labels=with_names,
        )
        columns = self._rerun.AnyValues(
            id=instances.ids,
            class_id=instances.class_ids,
            class_name=np.array(class_names, str),
            score=instances.scores,
        )
        self._log(entity, boxes, columns)

    def _jpeg(self, picture: NDArray[np.uint8]) -> Any:
        return self._rerun.Image(picture).compress(jpeg_quality=JPEG_QUALITY)

    def _blueprint(self, panels: Sequence[str]) -> Any:
        """A view for each panel, those in the network's size over the image, and the table."""
        from rerun import blueprint

        objects, classes = (
            blueprint.Spatial2DView(
                origin="camera", contents=["+ $origin/**", f"- $origin/{other}/**"], name=title
            )
            for other, title in (("classes", TITLES["camera"]), ("labels", "classes"))
        )
        views: list[Any] = [blueprint.Tabs(objects, classes)]
        for name in panels[1:]:
            origin = f"network/{name}"
            contents = [f"+ /{origin}/**", *(["+ /network/image"] if name == "clusters" else [])]
            view = blueprint.Spatial2DView(origin="network", contents=contents, name=TITLES[origin])
            views.append(view)
        table = blueprint.TextDocumentView(origin="table", name="objects")
        grid = blueprint.Grid(*views, grid_columns=2 if len(views) < 5 else 3)
        return blueprint.Blueprint(
            blueprint.Vertical(grid, table, row_shares=[4, 1]), collapse_panels=True
        )


def _rerun() -> Any:
    try:
        import rerun
    except ModuleNotFoundError as error:
        raise MissingExtraError("rerun-sdk", "view", "a recording for Rerun (.rrd)") from error
    return rerun

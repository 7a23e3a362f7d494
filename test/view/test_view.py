"""The view shows each step of clustering where it happens, for a scene that is known."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import untrained_checkpoint
from viewed_scenes import CENTERS, HEIGHT, RADIUS, WIDTH, viewed_scene

from instaseg_ros.config import Config, RuntimeConfig
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.runtimes.torch_runtime import TorchRuntime
from instaseg_ros.view.clusters import common_shift, neighbours
from instaseg_ros.view.panels import view
from instaseg_ros.view.scene import PANEL_PX
from instaseg_ros.view.viewer import Viewed, Viewer


def panels_of(picture: np.ndarray) -> list[np.ndarray]:
    """The six panels, two in a row."""
    rows = np.vsplit(picture, 3)
    return [panel for row in rows for panel in np.hsplit(row, 2)]


FRAME = Frame(np.full((HEIGHT, WIDTH, 3), 120, np.uint8))


@pytest.mark.parametrize("shift", [(0, 0), (-40, 30)])
def test_each_step_is_drawn_where_it_happens(shift: tuple[float, float]) -> None:
    viewed = viewed_scene(shift)
    assert len(viewed.clusters) == 2
    assert common_shift(viewed.clusters) == pytest.approx(shift, abs=1)
    panels = panels_of(view(FRAME, viewed, ["thing"], 0.1))
    scale = PANEL_PX / WIDTH
    image, seeds, offsets, votes, bandwidths, clusters = (
        panel[26 : 26 + round(HEIGHT * scale), 4 : 4 + PANEL_PX] for panel in panels
    )
    centers = [(round((x + 0.5) * scale), round((y + 0.5) * scale)) for x, y in CENTERS]
    assert (image == 120).all()
    background = seeds[2, 2]
    for x, y in centers:
        assert (seeds[y + 40, x + 40] != background).any()  # pixels of an object are surer
        mark = seeds[y - 3 : y + 4, x - 3 : x + 4].min(2)
        assert mark.max() > 200 and mark.min() < 60  # of the seed, white and black
        assert votes[y - 2 : y + 3, x - 2 : x + 3].max() > 200  # all meet here
        edge = votes[y - 2 : y + 3, round(x + RADIUS * scale) - 3 : round(x + RADIUS * scale) + 4]
        assert edge.max() > 100 and votes[y + 25, x].max() < 30  # the ellipse, and nothing inside
        assert bandwidths[y + 30, x + 30].max() > 60
        assert (clusters[y + 30, x + 30] != 120).any()
        left, right = offsets[y + 3, x - 40].astype(int), offsets[y + 3, x + 40].astype(int)
        assert np.abs(left - right).sum() > 100  # they point in opposite directions
    assert (clusters[2, 2] == 120).all() and offsets[2, 2].max() < 60


def test_a_region_is_magnified() -> None:
    picture = view(FRAME, viewed_scene(), ["thing"], 0.1, (20, 20, 20, 20))
    columns = picture.shape[1] // (PANEL_PX + 8)
    assert columns == 3 and picture.shape[0] == 2 * (PANEL_PX + 30)
    for thin in ((20, 0, 1, 60), (0, 20, 120, 1)):
        assert max(view(FRAME, viewed_scene(), ["thing"], 0.1, thin).shape) <= 3 * (PANEL_PX + 30)
    with pytest.raises(ConfigError, match="inside the image of 120 x 60"):
        view(FRAME, viewed_scene(), ["thing"], 0.1, (100, 20, 30, 20))


def test_odd_outputs_are_drawn_too() -> None:
    empty = Instances.empty(HEIGHT, WIDTH)
    nothing = np.full((2, HEIGHT, WIDTH), np.nan, np.float32)
    outputs = {"offset": nothing, "bandwidth": nothing, "seed": nothing[:1]}
    assert view(FRAME, Viewed(empty, outputs=outputs, clusters=empty), ["thing"], 0.1).any()
    outputs = {"embedding": nothing, "semantic": nothing}
    picture = view(FRAME, Viewed(empty, outputs=outputs, clusters=empty), ["thing"], 0.1)
    assert picture.shape[1] == 2 * (PANEL_PX + 8)
    assert view(FRAME, Viewed(empty, outputs={}, clusters=empty), ["thing"], 0.1).any()
    with pytest.raises(TypeError, match="Viewer"):
        view(FRAME, Result(empty), ["thing"], 0.1)


def test_main_directions_of_an_embedding_become_colours() -> None:
    viewed = viewed_scene()
    embedding = np.zeros((8, HEIGHT, WIDTH), np.float32)
    embedding[5] = viewed.clusters.labels
    other = Viewed(viewed.clusters, outputs={"embedding": embedding}, clusters=viewed.clusters)
    panel = np.hsplit(np.vsplit(view(FRAME, other, ["thing"], 0), 2)[0], 2)[1]
    scale = PANEL_PX / WIDTH
    first, second = (panel[26 + round(y * scale), 4 + round(x * scale)] for x, y in CENTERS)
    assert abs(int(first[0]) - int(second[0])) == 200


def test_neighbours_say_how_near_two_are_to_being_one() -> None:
    clusters = viewed_scene().clusters
    away = np.array(CENTERS[0]) - np.array(CENTERS[1])
    phi = 0.5 ** (np.square(away / RADIUS).sum())
    for n, found in enumerate(neighbours(clusters)):
        assert found is not None and found.id == clusters.ids[1 - n]
        assert found.phi == pytest.approx(phi, rel=0.02)
    assert neighbours(clusters.rows(np.array([True, False]))) == [None]


def test_a_viewer_keeps_what_the_network_says(small_profiles: None) -> None:
    checkpoint = untrained_checkpoint("small", ("car", "person"))
    pipeline = Pipeline(Config(), checkpoint, TorchRuntime(RuntimeConfig(), checkpoint))
    (viewed,) = Viewer(pipeline).process([Frame(np.zeros((40, 72, 3), np.uint8))])
    assert viewed.outputs["offset"].shape == (2, 40, 72)
    assert set(viewed.outputs) == {"offset", "bandwidth", "seed"}
    before = viewed.outputs["seed"].copy()
    Viewer(pipeline).process([Frame(np.full((40, 72, 3), 200, np.uint8))])
    assert np.array_equal(before, viewed.outputs["seed"])

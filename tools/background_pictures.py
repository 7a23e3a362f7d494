"""Makes a folder of pictures without street objects from packages of Debian 12.

For `train.backgrounds` of the street weights:

    apt-get download PACKAGE   # each of PACKAGES; in a folder of its own
    dpkg -x FILE.deb x         # each of them into the same folder x
    python3 tools/background_pictures.py x OUT

Photographs and drawings are chosen by name, after a look at each: none shows a person, a vehicle, a
bicycle or a street. More than a quarter is made here: cut-outs on other pictures, and shapes,
grids, lines and text. Needs numpy and OpenCV.
"""

from __future__ import annotations

import argparse
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) BGR

PACKAGES = {  # the version whose pictures were looked at
    "gcompris-qt-data": "3.1-2",
    "gnome-backgrounds": "43.1-1",
    "lomiri-wallpapers-16.04": "20.04.0-2",
    "lomiri-wallpapers-20.04": "20.04.0-2",
    "lxqt-themes": "1.2.0-1",
    "mate-backgrounds": "1.26.0-1",
    "plasma-workspace-wallpapers": "4:5.27.5-2",
    "tuxpaint-stamps-default": "2022.06.04-1",
    "ukui-wallpapers": "20.04.3-1.1",
}
GCOMPRIS = {  # of the WebP pictures of a resource file with sides of at least 200 pixels, these
    "erase": range(33),
    "explore_farm_animals": range(9),
    "explore_world_animals": range(15),
    "explore_world_music": (2, 6, 7),
    "explore_monuments": (7, 9, 10, 11, 13, 27, 30),
    "clickgame": range(6),
    "solar_system": range(4),
    "categorization": (
        *(4, 5, 6, 7, 10, 11, 13, 20, 21, 23, 26),
        *(28, 30, 31, 33, 35, 41, 42, 44, 45, 46, 48, 50, 51, 54, 56, 58, 59, 64, 67, 68, 73, 75),
        *(77, 79, 80, 82, 107, 108, 109, 110, 111, 112, 116, 117, 119, 120, 121, 122),
    ),
}
WALLPAPERS = {
    "backgrounds/gnome": "adwaita-l grid-d licorice-l pixels-l truchet-l wood-l",
    "backgrounds": (
        "Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede "
        "aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich greentock_by_Peter_Nerlich "
        "life_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi "
        "friends_by_Aitzol_Berasategi Kleiber_by_Lukas_Baubkus goldfish calla rhythm"
    ),
    "backgrounds/mate/nature": (
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops TwoWings Wood "
        "YellowFlower"
    ),
    "lxqt/wallpapers": (
        "Butterfly-Kenneth-Wimer Valendas after-the-rain appleflower butterfly cloud drop flowers "
        "this-is-not-windows triangles"
    ),
    "wallpapers": (
        "BytheWater ColorfulCups FallenLeaf Grey IceCold Kite OneStandsOut Patak Path Volna Altai"
    ),
}
STAMPS = "animals", "food", "household", "plants", "hobbies"
NO_STAMPS = ("cementmixer",)  # on wheels

COMPOSITES, DRAWN = 25, 46  # how many
SIDES = 960, 800, 640, 560, 480, 400  # pixels: the longest side is the first that is small enough
MOST_BYTES = 27_000
QUALITY = 60


def gcompris(packages: Path) -> Iterator[Picture]:
    for name, chosen in GCOMPRIS.items():
        data = (packages / f"usr/share/gcompris-qt/rcc/{name}.rcc").read_bytes()
        found = []
        for match in re.finditer(rb"RIFF(....)WEBP", data, re.DOTALL):
            (size,) = struct.unpack("<I", match[1])
            image = _decoded(data[match.start() : match.start() + 8 + size])
            if min(image.shape[:2]) >= 200:
                found.append(image)
        yield from (found[k] for k in chosen)


def wallpapers(packages: Path) -> Iterator[Picture]:
    for folder, names in WALLPAPERS.items():
        for name in names.split():
            path = packages / "usr/share" / folder / name
            inside = sorted((path / "contents/images").glob("[0-9]*x*"), key=_width)
            [file] = inside[-1:] or path.parent.glob(f"{name}.*")
            yield _decoded(file.read_bytes())


def _width(path: Path) -> int:
    return int(path.stem.split("x")[0])


def composites(
    packages: Path, grounds: list[Picture], rng: np.random.Generator
) -> Iterator[Picture]:
    """Two to seven stamps each, some cut off by the border, on other pictures or plain colour."""
    root = packages / "usr/share/tuxpaint/stamps"
    stamps = []
    for file in sorted(file for group in STAMPS for file in (root / group).rglob("*.png")):
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if image is None or image.shape[2:] != (4,) or min(image.shape[:2]) < 100:
            continue
        if file.stem not in NO_STAMPS:
            stamps.append(image)
    for number in range(COMPOSITES):
        ground = grounds[int(rng.integers(len(grounds)))]
        canvas = cv2.resize(ground, (640, 480), interpolation=cv2.INTER_AREA)
        if number % 3 == 2:
            canvas[:] = rng.integers(0, 256, 3)
        for _ in range(rng.integers(2, 8)):
            stamp = stamps[int(rng.integers(len(stamps)))]
            _put(canvas, stamp, int(rng.integers(80, 300)), rng)
        yield np.asarray(canvas, np.uint8)


def _put(canvas: NDArray[Any], stamp: NDArray[Any], side: int, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    scale = side / max(stamp.shape[:2])
    x, y = rng.uniform(-side / 3, [width - side / 2, height - side / 2])
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    soft = cv2.GaussianBlur(stamp, (0, 0), max(0.1, 0.4 / scale))
    moved = cv2.warpAffine(soft, matrix, (width, height)).astype(np.float32)
    alpha = moved[..., 3:] / 255
    canvas[:] = canvas * (1 - alpha) + moved[..., :3] * alpha


def drawn(rng: np.random.Generator) -> Iterator[Picture]:
    """Shapes, grids, lines and text on gradients and soft noise."""
    for number in range(DRAWN):
        height, width = 480, int(rng.choice([480, 640, 720]))
        ends = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        canvas = cv2.resize(ends, (width, height), interpolation=cv2.INTER_LINEAR).astype(float)
        coarse = rng.normal(0, 40, (*rng.integers(3, 40, 2), 3)) * rng.random()
        canvas += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8))
        for _ in range(rng.integers(3, 14)):
            KINDS[number % len(KINDS)](image, rng)
            if rng.random() < 0.3:
                KINDS[int(rng.integers(len(KINDS)))](image, rng)
        noise = rng.normal(0, 6 * rng.random(), image.shape)
        grey = image.mean(2, keepdims=True)
        muted = grey + rng.uniform(0, 0.7) * (image - grey)
        soft = cv2.GaussianBlur(muted, (0, 0), rng.uniform(0.4, 1.5))
        yield np.asarray((soft + noise).clip(0, 255), np.uint8)


def _color(rng: np.random.Generator) -> list[int]:
    return rng.integers(0, 256, 3).tolist()


def _point(image: Picture, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(0, image.shape[1::-1])


def _polygon(image: Picture, rng: np.random.Generator) -> None:
    corners = _point(image, rng) + rng.integers(-120, 121, (int(rng.integers(3, 9)), 2))
    cv2.fillPoly(image, [corners.astype(np.int32)], _color(rng), cv2.LINE_AA)


def _ellipse(image: Picture, rng: np.random.Generator) -> None:
    axes, turn = rng.integers(5, 120, 2).tolist(), int(rng.integers(180))
    thick = int(rng.choice([-1, -1, 2, 8]))
    middle = _point(image, rng).tolist()
    cv2.ellipse(image, middle, axes, turn, 0, 360, _color(rng), thick, cv2.LINE_AA)


def _grid(image: Picture, rng: np.random.Generator) -> None:
    """Rows of equal tiles, as of keys, books and cupboards."""
    left, top = _point(image, rng).tolist()
    wide, tall = rng.integers(6, 70, 2).tolist()
    gap, color, other = int(rng.integers(1, 12)), _color(rng), _color(rng)
    for row in range(rng.integers(1, 7)):
        for column in range(rng.integers(2, 10)):
            x, y = left + column * (wide + gap), top + row * (tall + gap)
            cv2.rectangle(image, (x, y), (x + wide, y + tall), color, -1)
            cv2.rectangle(image, (x, y), (x + wide, y + tall), other, 1)


def _lines(image: Picture, rng: np.random.Generator) -> None:
    start, step, along = _point(image, rng), rng.integers(-30, 31, 2), rng.integers(-400, 401, 2)
    color, thick = _color(rng), int(rng.integers(1, 12))
    for k in range(rng.integers(1, 12)):
        a = start + k * step
        cv2.line(image, a.tolist(), (a + along).tolist(), color, thick, cv2.LINE_AA)


def _text(image: Picture, rng: np.random.Generator) -> None:
    left, top = _point(image, rng).tolist()
    font, size, color = int(rng.integers(0, 8)), float(rng.uniform(0.4, 2.5)), _color(rng)
    for row in range(rng.integers(1, 8)):
        word = "".join(map(chr, rng.integers(33, 127, rng.integers(3, 25))))
        place = left - 100, top + int(row * 32 * size)
        cv2.putText(image, word, place, font, size, color, 1 + int(size), cv2.LINE_AA)


KINDS = _polygon, _ellipse, _grid, _lines, _text


def _decoded(data: bytes) -> Picture:
    """On grey where it is transparent."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.dtype == np.uint16:
        image = image // 257
    if image.shape[2] == 4:
        alpha = image[..., 3:] / 255
        image = image[..., :3] * alpha + 128 * (1 - alpha)
    return np.asarray(image, np.uint8)


def write(image: Picture, path: Path) -> None:
    """As WebP, as large as SIDES and MOST_BYTES allow."""
    data = b""
    for side in SIDES:
        scale = min(1.0, side / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".webp", small, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1].tobytes()
        if len(data) <= MOST_BYTES:
            break
    path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder into which the packages are unpacked")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    grounds = list(wallpapers(args.packages))
    made = {
        "photo": list(gcompris(args.packages)),
        "wallpaper": grounds,
        "stamps": list(composites(args.packages, grounds, np.random.default_rng(1))),
        "drawn": list(drawn(np.random.default_rng(2))),
    }
    for kind, pictures in made.items():
        for number, picture in enumerate(pictures):
            write(picture, args.out / f"{kind}{number:03d}.webp")
    files = list(args.out.glob("*.webp"))
    print(f"{len(files)} pictures, {sum(f.stat().st_size for f in files) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Generates driving sequences from seeds, with exact instances, classes, depth and camera poses.

Classes: person, rider, car, truck, bus. A rider is the person together with the bicycle or
motorcycle.
"""

from instaseg_ros.synthetic_street.camera import Camera
from instaseg_ros.synthetic_street.dataset import SyntheticStreet, held_out_street
from instaseg_ros.synthetic_street.render import View, render
from instaseg_ros.synthetic_street.scene import Scene, make_scene
from instaseg_ros.synthetic_street.traffic import CLASS_NAMES

__all__ = [
    "CLASS_NAMES",
    "Camera",
    "Scene",
    "SyntheticStreet",
    "View",
    "held_out_street",
    "make_scene",
    "render",
]

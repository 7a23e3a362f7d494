"""A seeded generator of driving sequences with exact truth: instances, classes, depth, camera pose.

Classes: person, rider, car, truck, bus. A rider is the person together with the bicycle or motorcycle.
"""

from .camera import Camera
from .dataset import SyntheticStreet
from .render import View, render
from .scene import CLASS_NAMES, Scene, make_scene

__all__ = ["CLASS_NAMES", "Camera", "Scene", "SyntheticStreet", "View", "make_scene", "render"]

"""A seeded generator of driving sequences with exact truth: instances, classes, depth, camera pose.

Classes: person, rider, car, truck, bus. A rider is the person together with the bicycle or
motorcycle.
"""

from .camera import Camera
from .dataset import SyntheticStreet
from .render import View, render
from .scene import Scene, make_scene
from .traffic import CLASS_NAMES

__all__ = ["CLASS_NAMES", "Camera", "Scene", "SyntheticStreet", "View", "make_scene", "render"]

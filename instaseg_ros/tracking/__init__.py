"""Tracking: the same object keeps its id from image to image."""

from instaseg_ros.tracking.tracker import Tracker, load_assignment

__all__ = ["Tracker", "load_assignment"]

"""Recordings and image files: what is read, written and replayed, without a ROS installation."""

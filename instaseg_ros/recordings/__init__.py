"""Reads, writes and replays recordings and image files, without a ROS installation."""

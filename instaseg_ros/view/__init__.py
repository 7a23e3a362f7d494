"""Draws what a network thinks of a frame: each step from its outputs to the objects.

`viewer` runs the pipeline and keeps what the network says, `panels` draws it, and `clusters` tells
how near two objects are to being one.
"""

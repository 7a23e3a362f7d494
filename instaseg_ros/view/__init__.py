"""Draws what a network thinks of a frame: each step from its outputs to the objects.

`viewer` runs the pipeline and keeps what the network says, `scene` tells where in the image that
is, `panels` draws it and `rerun_file` records it for Rerun; `clusters` tells how near two objects
are to being one.
"""

"""Numbers the surface materials, for the builders and the shading kernel."""

from __future__ import annotations

PLAIN = 0
ROAD = 1
PAVEMENT = 2
GRASS = 3
FACADE = 4
GLASS = 5
LEAF = 6
LAMP = 7  # emits light, more when it is darker
SIGN = 8
CLOTH = 9
PAINT = 10  # car paint: reflects a little of the sky
CABIN = 11  # a pane with a painted frame around it
BAND = 12  # a row of panes, as along a bus
GROUND = (ROAD, PAVEMENT, GRASS)

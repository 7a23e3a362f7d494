"""The colours of ids: forty, which people who see no red or no green tell apart too.

They were searched for: the nearest two are as far apart as possible in CIELAB for normal vision
(counted two thirds), protanopia and deuteranopia, and none is grey or dark. So was their order: ids
that follow each other differ most. test/visualization/test_palette.py measures both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# RGB of the ids 1 to 40; then they repeat.
_HEX = """
    b41e4b b478d2 4b2dff e1ff0f e1964b 78e1c3 b40078 5ab4ff 6978ff b41e0f
    5aa569 d2ff87 2de1f0 c36996 1e69c3 ff6969 e1c34b 69ffc3 f078c3 c32dd2
    0f690f f0c300 a5d296 e10f78 4bd2ff 870fd2 00a500 e1c378 00694b 00fff0
    a50f96 6996ff f0f05a 87783c 00c396 00a5b4 0069a5 4b5aff ff5a1e a5ffa5
"""


def by_label() -> NDArray[np.uint8]:
    """(65536, 3) uint8 RGB by label value; 0, the background, is black."""
    forty = np.frombuffer(bytes.fromhex(_HEX), np.uint8).reshape(-1, 3)
    colors = np.zeros((1 << 16, 3), np.uint8)
    colors[1:] = np.resize(forty, (len(colors) - 1, 3))
    return colors

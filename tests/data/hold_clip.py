"""Join a ring, claim and half write a clip, then wait.  usage: hold_clip.py FOLDER NAME SLOTS BYTES ITEM"""

import signal
import sys
from pathlib import Path

import numpy as np

from hpc_jepa.data import clip_ring
from hpc_jepa.data.clip_ring import ClipFacts, ClipRing


class TornRing(ClipRing):
    """Stops in the middle of the pixels."""

    def _write(self, content, offset):
        if len(content) == clip_ring.HEADER_BYTES or len(content) < clip_ring.PAGE:
            return super()._write(content, offset)
        super()._write(content[: len(content) // 2], offset)
        print("half", flush=True)
        signal.pause()


if __name__ == "__main__":
    folder, name, *numbers = sys.argv[1:]
    slots, size, item = map(int, numbers)
    clip_ring.FOLDER = Path(folder)
    ring = TornRing(name, slots, size)
    ring.announce(range(item, item + 1))
    assert ring.claim(item)
    ring.put(item, np.full(size, 7, np.uint8), ClipFacts(False, 4))

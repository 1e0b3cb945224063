#!/usr/bin/env python3
"""Same as ``hpc-jepa shards build``."""

import sys

from hpc_jepa.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["shards", "build"]
    main()

"""Train configurations one after the other in every process.  usage: run.py CONFIG..."""

import sys

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.training.loop import train

if __name__ == "__main__":
    for path in sys.argv[1:]:
        train(read_config(RunConfig, [path]), lambda line: None)

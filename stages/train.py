"""Run the `train` cells of one table: `python -m stages.train SCALE TABLE`."""

import sys

from pipeline.attach import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("train", sys.argv[1], table=sys.argv[2]))

"""Run the `warm_start` cells of one table: `python -m stages.warm_start SCALE TABLE`."""

import sys

from pipeline.attach import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("warm_start", sys.argv[1], table=sys.argv[2]))

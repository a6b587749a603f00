"""Run the `evaluate` cells of one table: `python -m stages.evaluate SCALE TABLE`."""

import sys

from pipeline.attach import run_stage

if __name__ == "__main__":
    sys.exit(run_stage("evaluate", sys.argv[1], table=sys.argv[2]))

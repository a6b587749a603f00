"""The pipeline: orchestration in the modules here and three folders, the science in the folders beside them.

The modules, by what they are for (tests/test_shape.py holds the list against the folder):

rows and cells   params labels check own_images cell listings
the store        store records files locks adopt results provenance guard spool
a stage's cells  attach progress plan launcher launch sbatch worker run
the terminal     __main__

cluster/ is where cells run, tracking/ is MLflow, commands/ is what `python -m pipeline` does.
"""

import sys
from importlib.util import find_spec

if find_spec("submitit") is None:  # as where `.venv/bin/dvc repro` runs the stages' `python` of another environment
    sys.exit(f"{sys.executable} lacks this project's packages: `source .venv/bin/activate` first, or use `make repro`")

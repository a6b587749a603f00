"""The pipeline: orchestration in the modules here, the science in the folders beside them.

Every module here, by what it is for (tests/test_shape.py holds the list against the folder):

rows and cells   params labels check cell steps
what to run      plan status partial past outlook forecast measuring own_images
the store        store files locks origin adopt results provenance garbage doctor
a stage's run    attach progress waiting guard
submitting       launch site sbatch slurm gpus
computing        worker team stopping pulse
what was lost    liveness losses
MLflow           tracking ingester database runs spool artifacts
at the terminal  __main__ command_line project live steering export
"""

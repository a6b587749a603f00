"""The pipeline: orchestration in the modules here, the science in the folders beside them."""

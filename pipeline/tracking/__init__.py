"""MLflow, written from the store by one process and read by nobody else."""

"""The stages of dvc.yaml, one module each: `python -m stages.<stage> …` from the project's folder."""

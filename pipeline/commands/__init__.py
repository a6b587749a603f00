"""What `python -m pipeline` does beside what stages do: looking ahead, looking on, steering, mending."""

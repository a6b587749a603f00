"""How good a network is on a validation list."""

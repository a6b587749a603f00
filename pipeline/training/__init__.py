"""The one training loop, and the parts that methods share."""

"""Images, masks, partitions, and the batches of a step."""

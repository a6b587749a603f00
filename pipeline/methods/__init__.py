"""One file for each method; its name is the params key and the row of the tables."""

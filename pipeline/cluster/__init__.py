"""Where cells run: what a site offers, its jobs and machines, and which of them live."""

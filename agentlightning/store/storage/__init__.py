"""Where the rows of the store live: what to keep, and no rule about it."""

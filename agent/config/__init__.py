"""Settings and the servers file: where each value comes from, and what is wrong with it."""

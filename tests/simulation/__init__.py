"""The core of hundreds of nodes on a clock of its own, against a catalog that lies."""

"""End-to-end tests: real node processes, real catalogs, real clients."""

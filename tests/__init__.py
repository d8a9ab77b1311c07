"""The test suite; a package so that tests can share processes and fixtures as `tests.…`."""

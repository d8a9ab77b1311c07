"""A small mesh on this machine."""

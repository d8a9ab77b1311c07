"""Definitions that operators rely on: what a tool or prompt looked like when it was first seen or approved."""

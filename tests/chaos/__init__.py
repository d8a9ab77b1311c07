"""Whole meshes under load, with faults at chosen moments."""

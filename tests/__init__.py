"""Tests of the mesh: unit, contract, integration and end to end."""

"""Clients from before 2026-07-28, which open a session."""

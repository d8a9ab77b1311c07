"""Consul: one client, the watch, the registration."""

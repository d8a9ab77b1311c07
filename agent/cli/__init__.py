"""The `mesh-agent` command."""

"""Real MCP servers of other people, installed apart from our own packages, for the end-to-end tests."""

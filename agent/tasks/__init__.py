"""Tasks of MCP on their way through the mesh. Pure."""

"""The MCP endpoints of a node."""

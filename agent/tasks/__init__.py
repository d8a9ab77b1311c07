"""Tasks of MCP: their public IDs, and the translation between protocol versions. PURE."""

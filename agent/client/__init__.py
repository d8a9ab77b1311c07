"""Our client side of MCP: one protocol, two transports, both eras, raw JSON objects in and out."""

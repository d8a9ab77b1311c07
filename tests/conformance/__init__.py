"""The conformance suite of MCP, and programs of others, against nodes."""

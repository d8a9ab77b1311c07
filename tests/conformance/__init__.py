"""The conformance suite of MCP, and other programs that nobody here wrote, against nodes."""

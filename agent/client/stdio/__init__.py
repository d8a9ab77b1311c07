"""The client side of MCP over the pipes of a child process."""

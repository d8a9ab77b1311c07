"""The client side of MCP over HTTP: connections, pools, and one client for each era."""

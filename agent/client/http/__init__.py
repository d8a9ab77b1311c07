"""The client side of MCP over HTTP: connections, pools, and one caller for each era."""

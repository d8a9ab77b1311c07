"""Small MCP servers that the demonstration and the tests run. Real servers, nothing of the mesh in them."""

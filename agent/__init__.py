"""MCP Mesh Agent: a node that serves MCP for itself and for every peer it finds."""

MESH_AGENT = True  # For `mcp_mesh_agent`, which knows by it that this is no other package of the name.
__version__ = "0.1.0"

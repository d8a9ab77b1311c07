"""MCP Mesh Agent: a node that serves MCP for itself and for every peer it finds."""

__version__ = "0.1.0"

"""The processes beside a node's own that serve its tool calls, behind one port and one identity (`MESH_WORKERS`)."""

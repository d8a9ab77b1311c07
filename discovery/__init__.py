"""Service discovery: whole snapshots of the registered instances, and our own registration.

Knows Consul and the embedded one-machine catalog; knows nothing of MCP and nothing of `agent`. Users import
`discovery.model` for shapes, protocols and errors, and `discovery.backoff` for waits; only the wiring opens a session.
"""

MESH_AGENT = True  # For `mcp_mesh_agent`, which knows by it that this is no other package of the name.

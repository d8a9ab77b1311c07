"""Service discovery: whole snapshots of who is registered, and our own registration.

Knows Consul and the embedded one-machine catalog; knows nothing of MCP and nothing of `agent`. Users import
`discovery.model` for shapes and protocols and `discovery.backoff` for waits; only the wiring opens a session.
"""

"""Links to backends: the doors that speak MCP as a client, one task a link, and the supervisor that owns the tasks."""

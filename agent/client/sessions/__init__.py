"""Sessions with one server, dedicated to the callers that accept its server requests."""

"""Sessions with one server, dedicated to the callers that its calls may ask."""

"""Sessions with one server, dedicated to the clients that its calls may ask."""

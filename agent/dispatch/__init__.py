"""One forwarded request: choose a replica, send it, record the outcome once, again where that is safe."""

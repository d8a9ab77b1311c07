"""Spans of forwarded calls: the W3C trace context in `_meta`, and their way to a collector (OpenTelemetry)."""

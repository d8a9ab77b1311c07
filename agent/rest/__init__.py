"""The REST API, probes, metrics, and the checks that stand before every route."""

"""The aiohttp edge: MCP endpoints, the REST API, probes, metrics and the checks that stand before all of them."""

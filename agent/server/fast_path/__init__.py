"""The fast path of MCP requests: the same handlers as aiohttp's application, without its machinery around each."""

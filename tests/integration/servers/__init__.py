"""MCP servers that the client tests talk to: real ones, and ones that misbehave by script.

Imported by the integration tests; the stdio ones are run as files of their own. The one rule: all of them listen on
loopback, on a port that the kernel chose.
"""

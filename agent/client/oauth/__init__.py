"""Tokens for servers that want OAuth: this node as a client of other people's issuers."""

"""Attacks on running nodes, each a sentence of docs/security.md."""

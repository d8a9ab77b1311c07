"""The record of what operators and callers did: a chain of JSON lines that shows when one was changed."""

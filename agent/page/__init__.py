"""The node's own page: what it shows, the stream that keeps it current, and its files."""

"""Who may do what: tokens' scopes and tools, the routes that want them, and how fast calls may come."""

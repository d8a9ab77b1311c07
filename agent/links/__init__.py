"""One task for each link to a backend, and the supervisor that owns the tasks."""

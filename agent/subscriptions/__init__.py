"""Clients' subscriptions to resources and tasks, and the backends that send the updates."""

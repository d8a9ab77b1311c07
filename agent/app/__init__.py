"""The wiring: settings become a running node, and a signal becomes an orderly end."""

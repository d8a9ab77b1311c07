"""The one-machine catalog that nodes serve themselves when there is no Consul."""

"""The contract that the embedded catalog and a real Consul both keep, as our own client sees it."""

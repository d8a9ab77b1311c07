"""What programs find a mesh by: a registry of its servers, the card of the node, a text for agents that read."""

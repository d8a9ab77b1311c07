"""Who a node is: its key pair, the proof of it to another node, and what the two have in common afterwards."""

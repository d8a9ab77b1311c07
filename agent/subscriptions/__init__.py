"""Which client wants updates of which resource or task, and the backends that send them."""

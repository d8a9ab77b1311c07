"""A source of peers over a name of DNS: SRV records, or addresses with a port."""

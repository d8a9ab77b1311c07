"""Which links there should be: catalog, overrides and servers in, links and route tables out."""

"""JSON that is passed on byte for byte where nothing in it has to change."""

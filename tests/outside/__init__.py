"""The test bed against what others wrote: published servers behind a node, published clients before one."""

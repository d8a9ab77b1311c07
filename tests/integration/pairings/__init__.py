"""The matrix of pairings: client era x server era x transport x own server or a peer's, topic by topic.

All cells share one stage (`stage`), a process of two nodes and their servers. The one rule: each cell either works or
is refused with the error that is asserted.
"""

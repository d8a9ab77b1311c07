"""The pure core: decisions without await, clock, randomness or logging.

Every value that goes in is given by the caller; every value that comes out is frozen.
"""

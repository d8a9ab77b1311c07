"""The pure core: decisions without await, clock, randomness or logging. Every value in is given, every value out frozen."""

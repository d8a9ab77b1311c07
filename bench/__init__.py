"""Benchmarks: every figure is a ratio or a distribution from one interleaved run on this machine."""

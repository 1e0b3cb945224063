"""Shards of clips: written once, read at random, cut and augmented by counter-based numbers."""

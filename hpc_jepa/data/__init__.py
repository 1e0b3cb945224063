"""Shard folders, the clip sampler, video decoding, augmentation and data loaders."""

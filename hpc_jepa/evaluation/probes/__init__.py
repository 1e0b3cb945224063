"""Probes: small models that read classes out of frozen features, many settings of one kind side by side."""

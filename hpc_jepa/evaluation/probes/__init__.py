"""Probes: small classifiers on frozen features, many hyperparameters and seeds trained side by side."""

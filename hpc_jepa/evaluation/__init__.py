"""Frozen evaluation: probes, few-shot, robustness and text alignment on the features of a frozen encoder."""

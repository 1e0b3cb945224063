"""Encoder, predictor, and the three-network Video-JEPA."""

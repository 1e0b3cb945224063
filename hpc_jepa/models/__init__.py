"""Networks: encoder, predictor and the three-network Video-JEPA; FLOPs; released weights."""

"""Which tokens the student sees and which it predicts."""

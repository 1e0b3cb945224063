"""Confidence intervals and tests: accuracies, differences over pretraining seeds and test clips, families of them."""

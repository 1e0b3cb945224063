"""Mask sampling: the tokens that the student sees, and the tokens to predict."""

"""Frozen evaluation: what can a simple probe read from the features of an encoder?"""

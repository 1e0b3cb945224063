"""Data sources, one module per data set or file layout."""

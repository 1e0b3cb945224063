"""Data sets that shards are made of, one file per layout."""

"""Files that are written whole, JSON lines, allocator settings, the code revision and random streams."""

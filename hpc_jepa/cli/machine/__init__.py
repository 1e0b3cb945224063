"""What this machine can do: one file for each part of it, tried for real where that takes seconds."""

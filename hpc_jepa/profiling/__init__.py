"""Profile a few training steps and summarise them on one page."""

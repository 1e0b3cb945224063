"""Training: loop, engine, EMA, schedules, metrics, resumption."""

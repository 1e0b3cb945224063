"""The table, plots and page of a study, computed from its records alone."""

"""Report of a study: tables, plots, audit of claims and HTML page, computed from evaluation records alone."""

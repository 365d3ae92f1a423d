"""Many trainings as one Ray Tune run: search, tables and cross-validation."""

"""A dataset on disk becomes an index: one row per study with its path, patient, labels and split."""

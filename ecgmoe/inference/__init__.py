"""From a model folder to predictions: of a split of prepared data, and of files."""

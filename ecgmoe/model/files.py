"""Names of the files of a model folder. Free of torch."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CALIBRATION, CARD = "calibration.json", "README.md"
"""These two come with the evaluation of a run, and are not in every folder."""

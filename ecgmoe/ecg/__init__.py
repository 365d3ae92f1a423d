"""One ECG: the canonical record, its quality, its beats, its rhythm statements, and its simulation. No Ray, no torch."""

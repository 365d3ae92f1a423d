"""A model folder behind HTTP, on Ray Serve: JSON or WFDB bytes in, predictions out. SERVING.md explains it."""

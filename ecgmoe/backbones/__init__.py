"""The backbones: one encoder per file behind the interface of `base.py`, found by name through `registry.py`."""

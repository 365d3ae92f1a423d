"""ECG-MoE: distributed training of a mixture-of-experts ECG foundation model on Ray and DeepSpeed.

Importing this package imports neither torch nor Ray; each stage is a subpackage (see the map in README.md).
"""

__version__ = "0.1.0"

"""ECG-MoE: distributed training of a mixture-of-experts ECG foundation model on Ray and DeepSpeed.

Importing this package imports neither torch nor Ray; each stage is a subpackage (see the map in README.md). `ecgmoe.predict`
is the way from one ECG to its predictions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgmoe.inference.predict_one import predict

__all__ = ["__version__", "predict"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what `predict` needs only when it is asked for."""
    if name != "predict":
        raise AttributeError(f"module 'ecgmoe' has no attribute {name!r}")
    from ecgmoe.inference.predict_one import predict

    return predict

"""ECG-MoE: distributed training of a mixture-of-experts ECG foundation model on Ray and DeepSpeed.

Importing this package imports neither torch nor Ray; each stage is a subpackage (see the map in README.md). `ecgmoe.predict`
is the way from one ECG to its predictions, `ecgmoe.explain` to what they rest on, `ecgmoe.ECGMoE` the model as a torch module.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgmoe.inference.explain_one import explain
    from ecgmoe.inference.predict_one import predict
    from ecgmoe.model.ecg_moe import ECGMoE

__all__ = ["ECGMoE", "__version__", "explain", "predict"]
__version__ = "0.1.0"

_WHERE = {
    "ECGMoE": "ecgmoe.model.ecg_moe",
    "explain": "ecgmoe.inference.explain_one",
    "predict": "ecgmoe.inference.predict_one",
}


def __getattr__(name: str) -> Any:
    """Imports what is offered by name only when it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'ecgmoe' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)

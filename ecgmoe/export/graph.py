"""A predictor as a graph of `torch.export` and of ONNX."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ecgmoe.ecg.record import N_LEADS, N_SAMPLES
from ecgmoe.export.predictor import WaveformPredictor

INPUT = "signal"
OPSET = 20
METADATA = "ecgmoe"
"""Key of an ONNX file's metadata under which a JSON object says what the outputs mean."""


class ExportError(ValueError):
    """A model that is no graph, or a graph that does not give what the model gives; the message says which part of it."""


def check_packages() -> None:
    """Refuse before anything is computed.

    Raises:
        ExportError: what writes or runs ONNX is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"an ONNX file needs {error.name}: pip install 'ecgmoe[export]', or write the other format with --formats pt2"
        ) from error


def graph_of(predictor: WaveformPredictor) -> ExportedProgram:
    """One graph for batches of any size.

    Raises:
        ExportError: a part of the model asks for values of its data while it is traced.
    """
    try:
        return _traced(predictor, torch.zeros(2, N_LEADS, N_SAMPLES, dtype=torch.int16))
    except Exception as error:
        names = [name for name, backbone in predictor.model.live.items() if not _traceable(backbone)]
        what = f"the backbone {', '.join(names)}" if names else "the model"
        raise ExportError(
            f"{what} cannot be exported, because its Python code depends on values of its data; EXPORT.md says what a "
            f"backbone of your own must do ({type(error).__name__}: {str(error)[:300]})"
        ) from error


def write_onnx(graph: ExportedProgram, file: Path, outputs: list[str], metadata: Mapping[str, Any]) -> None:
    """Write it; beyond 2 GB the weights come beside it as NAME.data.

    Args:
        graph: of a `WaveformPredictor`.
        file: to write.
        outputs: names of its outputs, in their order.
        metadata: what the outputs mean, kept in the file.
    """
    with _quietly():
        program = torch.onnx.export(
            graph, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=outputs, verbose=False
        )
    if program is None:
        raise ExportError("torch gave no ONNX graph")
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    program.save(str(file))


def write_pt2(graph: ExportedProgram, file: Path) -> None:
    """Write the archive of `torch.export`."""
    with _quietly():
        torch.export.save(graph, file)


def read_pt2(file: Path) -> nn.Module:
    """What `write_pt2` wrote, to be called with the signal."""
    with _quietly():
        return torch.export.load(file).module()


def _traced(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    with torch.no_grad(), _quietly():
        return torch.export.export(module, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)


def _traceable(backbone: nn.Module) -> bool:
    try:
        _traced(backbone, torch.zeros(2, N_LEADS, N_SAMPLES))
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's remarks on packages that nothing here needs, and on weights that share their memory."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

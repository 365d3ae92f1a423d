"""Official files by themselves: read as their authors' code reads them, or converted into one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.checkpoints import CONVERTED
from ecgmoe.backbones.registry import backbone_class


class OfficialEncoder(nn.Module):
    """An encoder as its authors call it: its own input in, the unpooled feature out; in evaluation mode."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.eval()

    def forward(self, x_BCS: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """(B, leads, samples) to the feature; what follows goes to the backbone's `encode` (MOMENT: mask_BS)."""
        return self.backbone.encode(x_BCS, *arguments, **options)


def load_official(name: str, path: str | Path) -> OfficialEncoder:
    """The encoder in an official file.

    Args:
        name: timesnet, dlinear, moment, tempo or ecgfm.
        path: the file, or a folder where the official format is one (or which holds the one file).

    Returns:
        A module that maps the backbone's own input (B, leads, samples) to the official feature: TimesNet (B, samples,
        W), DLinear (B, leads, H), MOMENT (B, leads, 64, W), TEMPO (B, leads, 3, 42, W), ECG-FM (B, frames, W).

    Raises:
        ValueError: the name is unknown, or the file is not one of this backbone (`CheckpointError`).
    """
    return OfficialEncoder(backbone_class(name).from_official(str(path)))


def convert(name: str, source: str, target: Path) -> dict[str, Any]:
    """An official file as one safetensors file with configuration and provenance in its header.

    Args:
        name: of the backbone.
        source: official file, folder or hub id.
        target: written atomically; `BackboneConfig.weights` takes it on any machine, without a hub.

    Returns:
        What the header says: backbone, architecture, provenance.

    Raises:
        ValueError: as `load_official`, or `target` is no .safetensors file.
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the converted file must be called *.safetensors")
    backbone = backbone_class(name).from_official(source)
    header = {
        "backbone": type(backbone).__name__,
        "architecture": backbone.describe(),
        "provenance": asdict(backbone.provenance),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    state = {key: value.contiguous() for key, value in backbone.state_dict().items()}
    save_file(state, partial, metadata={CONVERTED: json.dumps(header)})
    partial.replace(target)
    return header

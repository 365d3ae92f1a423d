"""TimesNet (Wu et al., ICLR 2023, arXiv 2210.02186): a series folded at its own periods into 2-D and convolved there.

The official code takes the periods from the mean spectrum of the batch, so a record's feature changes with its
neighbours. Here the periods are the record's own.

Legend: B batch, C leads, S samples, W width, k periods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ecgmoe.backbones import base
from ecgmoe.backbones.checkpoints import count_layers, load_strictly, official_file, read_state, size_of
from ecgmoe.backbones.provenance import OWN_TRAINING, Provenance

POSITIONS = 5000
"""Length of the table of positions in the official checkpoints."""
TOKEN_CONVOLUTION = "enc_embedding.value_embedding.tokenConv.weight"
NOT_THE_ENCODER = ("projection.", "enc_embedding.position_embedding.", "enc_embedding.temporal_embedding.")
"""Heads, a table that is computed, and the embedding of calendar time that an ECG has not."""
UNIT_MV = 0.25
"""About the standard deviation of an ECG: in millivolts the table of positions would drown the signal and decide the
periods of every record alike."""


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of TimesNet.

    Attributes:
        samples: S.
        tokens: pooled tokens.
        leads: input channels.
        width: W.
        hidden: channels between the two inception blocks of a layer.
        layers: number of TimesBlocks.
        periods: k, periods looked at per layer; checkpoints do not tell it, 3 is the setting of ECG-MoE's authors.
        kernels: 2-D convolutions per inception block, of 1, 3, 5, ... samples.
        horizon: samples that a checkpoint trained for forecasting appends before its blocks, after standardising each
            series; 0 for one trained otherwise.
    """

    samples: int = 500
    tokens: int = 50
    leads: int = 12
    width: int = 16
    hidden: int = 32
    layers: int = 2
    periods: int = 3
    kernels: int = 6
    horizon: int = 0


class Inception(nn.Module):
    """The mean of 2-D convolutions of growing size."""

    def __init__(self, inputs: int, outputs: int, kernels: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(nn.Conv2d(inputs, outputs, 2 * i + 1, padding=i) for i in range(kernels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([convolution(x) for convolution in self.kernels]).mean(0)


class TimesBlock(nn.Module):
    """One layer: periods by rFFT amplitude, fold to 2-D, inception, softmax-weighted by amplitude, residual."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.k = architecture.periods
        width, hidden, kernels = architecture.width, architecture.hidden, architecture.kernels
        self.conv = nn.Sequential(Inception(width, hidden, kernels), nn.GELU(), Inception(hidden, width, kernels))

    def periods(self, x_BSW: Tensor, of_batch: bool = False) -> tuple[Tensor, Tensor]:
        """The k strongest periods in samples and their amplitudes, each (B, k).

        In fp32, and the lower frequency wins a tie: rounding must not choose the periods.
        """
        with torch.autocast(x_BSW.device.type, enabled=False):
            amplitude = torch.fft.rfft(x_BSW.float(), dim=1).abs().mean(-1)
        ranked = amplitude.mean(0, keepdim=True).expand_as(amplitude) if of_batch else amplitude
        # The mean (frequency 0) has no period, and must not win even where all amplitudes are 0.
        frequency = 1 + ranked[:, 1:].detach().sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        return x_BSW.shape[1] // frequency, amplitude.gather(1, frequency)

    def forward(self, x_BSW: Tensor, batch_periods: bool = False) -> Tensor:
        periods, amplitude = self.periods(x_BSW, batch_periods)
        folded = torch.zeros(*periods.shape, *x_BSW.shape[1:], device=x_BSW.device, dtype=x_BSW.dtype)
        # Records are grouped by period, so that each 2-D shape is convolved once.
        for period in periods.unique().tolist():
            record, place = (periods == period).nonzero(as_tuple=True)
            folded = folded.index_put((record, place), self.fold(x_BSW[record], int(period)).to(folded.dtype))
        weights = amplitude.softmax(1).to(folded.dtype)
        return (folded * weights[:, :, None, None]).sum(1) + x_BSW

    def fold(self, x_BSW: Tensor, period: int) -> Tensor:
        """Convolve (B, S, W) as (B, W, S / period, period), zero-padded to whole periods."""
        batch, samples, width = x_BSW.shape
        x = nn.functional.pad(x_BSW, (0, 0, 0, -samples % period))
        image = x.view(batch, -1, period, width).permute(0, 3, 1, 2)
        return self.conv(image).permute(0, 2, 3, 1).reshape(batch, -1, width)[:, :samples]


class TimesNet(base.Backbone):
    """The encoder of TimesNet: circular token convolution, positions, TimesBlocks with one shared LayerNorm."""

    # As often as a batch has different periods.
    called_by_data = (TimesBlock,)
    leads = "together"
    normalisation = "none (units of 0.25 mV)"
    architecture_type = Architecture
    sizes = {
        "tiny": Architecture(samples=250, tokens=25, width=8, hidden=8, layers=1, periods=2, kernels=3),
        "base": Architecture(),
        "large": Architecture(width=32, hidden=64, layers=3),
    }

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=architecture.width)
        self.tokens_conv = nn.Conv1d(
            architecture.leads, architecture.width, 3, padding=1, padding_mode="circular", bias=False
        )
        # Official name: weights of a forecasting checkpoint have it.
        self.predict_linear = (
            nn.Linear(architecture.samples, architecture.samples + architecture.horizon)
            if architecture.horizon
            else None
        )
        self.register_buffer("positions", base.sinusoidal_positions(POSITIONS, architecture.width), persistent=False)
        self.model = nn.ModuleList(TimesBlock(architecture) for _ in range(architecture.layers))
        self.layer_norm = nn.LayerNorm(architecture.width)

    @classmethod
    def from_official(cls, source: str) -> Self:
        """From a state dict of the Time-Series-Library; nobody published one trained on ECGs."""
        file = official_file(source, "*.pth")
        state = read_state(file)
        width, leads = (size_of(state, TOKEN_CONVOLUTION, axis, source) for axis in (0, 1))
        samples = samples_of(state, width) or cls.sizes["base"].samples
        extended = state["predict_linear.weight"].shape[0] if "predict_linear.weight" in state else samples
        backbone = cls(
            Architecture(
                samples=samples,
                leads=leads,
                width=width,
                hidden=size_of(state, "model.0.conv.0.kernels.0.weight", 0, source),
                layers=count_layers(state, "model.", source),
                kernels=count_layers(state, "model.0.conv.0.kernels.", source),
                horizon=extended - samples,
            )
        )
        kept = {key: value for key, value in state.items() if not key.startswith(NOT_THE_ENCODER)}
        kept["tokens_conv.weight"] = kept.pop(TOKEN_CONVOLUTION)
        load_strictly(backbone, kept, source)
        backbone.provenance = Provenance.of_file(file, source=source, licence=OWN_TRAINING, pretraining=OWN_TRAINING)
        return backbone

    def own_input(self, x_BCT: Tensor) -> Tensor:
        return super().own_input(x_BCT) / UNIT_MV

    def embed(self, x_BCS: Tensor) -> Tensor:
        """Token convolution and positions: (B, S, W)."""
        return self.tokens_conv(x_BCS).transpose(1, 2) + self.get_buffer("positions")[:, : x_BCS.shape[-1]]

    def encode(self, x_BCS: Tensor, batch_periods: bool = False) -> Tensor:
        """(B, 12, S) to (B, S + horizon, W).

        Args:
            x_BCS: the signal.
            batch_periods: take the periods from the batch's mean spectrum as the official code does. Only for comparing
                with it: a record's feature then depends on its neighbours.

        Raises:
            ValueError: the checkpoint was made for another number of leads.
        """
        if x_BCS.shape[1] != self.architecture.leads:
            raise ValueError(
                f"this TimesNet takes {self.architecture.leads} leads at once and got {x_BCS.shape[1]}: use weights that "
                "were trained on 12 channels"
            )
        if self.predict_linear is None:
            x_BSW = self.embed(x_BCS)
        else:
            spread = (x_BCS.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
            embedded = self.embed((x_BCS - x_BCS.mean(-1, keepdim=True)) / spread)
            x_BSW = self.predict_linear(embedded.transpose(1, 2)).transpose(1, 2)
        for block in self.model:
            x_BSW = self.layer_norm(block(x_BSW, batch_periods))
        return x_BSW


def samples_of(state: Mapping[str, Tensor], width: int) -> int | None:
    """S as an official checkpoint tells it through its head, which is otherwise dropped.

    A forecast extends S samples in time, a classifier flattens S x W; the other heads do not depend on S.
    """
    if "predict_linear.weight" in state:
        return state["predict_linear.weight"].shape[1]
    flattened = state["projection.weight"].shape[1] if "projection.weight" in state else 0
    return flattened // width if flattened > width else None

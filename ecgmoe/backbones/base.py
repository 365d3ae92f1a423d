"""The backbone interface: F_k = f_k(DS_k(X)) (paper, Eq. 1).

A backbone says what it wants (leads, sampling rate, samples, normalisation) and what it gives (tokens x width). `forward`
takes the canonical record in millivolt and does everything: downsampling, the encoder's own normalisation, encoding,
pooling. The same `forward` computes the cached features and runs in the training graph, so that both are one function.

Legend: B batch, C 12 leads, T 5000 samples, S samples that the backbone wants, M pooled tokens, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ecgmoe.backbones.checkpoints import CheckpointError, load_strictly, read_converted
from ecgmoe.backbones.provenance import Provenance
from ecgmoe.backbones.resample import FourierResample
from ecgmoe.config_tools import from_dict
from ecgmoe.ecg.record import N_SAMPLES, SAMPLING_RATE_HZ

SECONDS = N_SAMPLES / SAMPLING_RATE_HZ


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of an encoder; each backbone extends it with its own.

    Attributes:
        samples: S, the length to which 10 s are resampled.
        tokens: M, number of pooled tokens that the model sees.
    """

    samples: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a backbone wants.

    Attributes:
        leads: whether the encoder sees the 12 leads "together" or "each alone".
        samples: of 10 s, after downsampling.
        sampling_rate_hz: the same as a rate.
        normalisation: what is done to the signal before it is encoded, in words.
    """

    leads: Literal["together", "each alone"]
    samples: int
    sampling_rate_hz: float
    normalisation: str


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on the attention of an encoder (Hu et al., ICLR 2022, arXiv 2106.09685).

    Attributes:
        rank: r.
        alpha: adapters are scaled by alpha / rank.
    """

    rank: int
    alpha: float


class Backbone(nn.Module, ABC):
    """An ECG encoder without its forecasting or pretraining head, at random weights when it is constructed.

    Attributes:
        architecture: its sizes; `type(backbone)(architecture)` builds the same encoder again.
        samples: S, the length that `encode` takes for 10 s.
        tokens: M, number of pooled tokens.
        width: W, channels per token.
        provenance: of its published weights, None where they are random.
        lora: its adapters, None where it has none.
    """

    leads: ClassVar[Literal["together", "each alone"]]
    normalisation: ClassVar[str]
    architecture_type: ClassVar[type[Architecture]]
    sizes: ClassVar[dict[str, Any]]
    """Named architectures: tiny, base, large."""
    attention: ClassVar[tuple[str, ...]] = ()
    """Names of the linear layers that adapters go on; empty where the encoder has no attention."""
    called_by_data: ClassVar[tuple[type[nn.Module], ...]] = ()
    """Modules that call their own parts more or less often from batch to batch. ZeRO 3 fetches weights at every call, and
    ranks that call differently would wait for each other for ever: such a module is fetched as a whole."""
    own_lora: Lora | None = None
    """Adapters that are part of the encoder's published weights."""

    def __init__(self, architecture: Any, *, width: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.samples, self.tokens, self.width = architecture.samples, architecture.tokens, width
        self.provenance: Provenance | None = None
        self.lora: Lora | None = None
        self.resample: nn.Module = FourierResample(self.samples)

    @property
    def wants(self) -> Input:
        """What the encoder is given of a record."""
        return Input(
            leads=self.leads,
            samples=self.samples,
            sampling_rate_hz=self.samples / SECONDS,
            normalisation=self.normalisation,
        )

    @classmethod
    def from_pretrained(cls, source: str, tokens: int | None = None) -> Self:
        """The encoder of published weights, its sizes inferred from the file, loaded strictly.

        Args:
            source: a file that `convert` made, the official file or folder, or a hub id where the format has one.
            tokens: pooled tokens; None takes those of the file, or of the size "base".

        Raises:
            CheckpointError: the file is missing, torn or of another model.
        """
        converted = read_converted(Path(source))
        if converted is None:
            backbone = cls.from_official(source)
        else:
            state, content = converted
            if content["backbone"] != cls.__name__:
                raise CheckpointError(f"{source} holds the weights of {content['backbone']}, not of {cls.__name__}")
            # Each backbone is constructed from its architecture alone.
            backbone = cls(from_dict(cls.architecture_type, content["architecture"]))  # type: ignore[call-arg]
            load_strictly(backbone, state, source)
            backbone.provenance = from_dict(Provenance, content["provenance"])
        if tokens is not None:
            backbone.architecture, backbone.tokens = replace(backbone.architecture, tokens=tokens), tokens
        return backbone

    @classmethod
    def from_official(cls, source: str) -> Self:
        """The encoder of a checkpoint in the format of its authors.

        Raises:
            CheckpointError: the file is missing, torn or of another model.
        """
        raise CheckpointError(f"{cls.__name__} has no official format: give a file that jobs/convert.py made")

    def own_input(self, x_BCT: Tensor) -> Tensor:
        """Canonical records (B, 12, 5000) in mV as the encoder wants them, (B, 12, S); always in fp32."""
        return self.resample(x_BCT)

    @abstractmethod
    def encode(self, x_BCS: Tensor) -> Tensor:
        """The official, unpooled feature: (B, ..., W), from the backbone's own input (B, C, S)."""

    def along_time(self, x_BCS: Tensor) -> Tensor:
        """Features in the order of time, (B, channels, steps), from the backbone's own input: what masked reconstruction needs.

        Not every encoder has them.
        """
        raise NotImplementedError

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Canonical records (B, 12, 5000) in mV, missing samples already 0, to pooled tokens (B, M, W)."""
        return pool_tokens(self.encode(self.own_input(x_BCT)), self.tokens)

    def describe(self) -> dict[str, Any]:
        """The architecture as plain values."""
        return asdict(self.architecture)

    def add_lora(self, lora: Lora) -> None:
        """Put adapters on the attention and train nothing else; B is zero, so the function does not change yet.

        Raises:
            ValueError: there is no attention.
        """
        if not self.attention:
            raise ValueError(
                f"{type(self).__name__} has no attention for adapters: choose mode cached, frozen or full instead of lora"
            )
        from peft import LoraConfig, inject_adapter_in_model

        # No dropout: an encoder is one function, in training as in the cache.
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=list(self.attention),
        )
        inject_adapter_in_model(config, self)
        self.lora = lora

    def checkpoint_gradients(self) -> None:
        """Keep no activations inside the encoder's layers: they are computed again in the backward pass.

        Raises:
            ValueError: the encoder has nothing worth it.
        """
        raise ValueError(f"{type(self).__name__} is too small for gradient checkpointing: leave it off")


def pool_tokens(feature: Tensor, tokens: int) -> Tensor:
    """Average contiguous groups of tokens: (B, ..., W) to (B, tokens, W), in the order of the axes between.

    A feature of (B, 12 leads, 64 patches, W) becomes 12 tokens of one lead each or 4 tokens of three leads each.
    """
    flat = feature.flatten(1, -2)
    if flat.shape[1] < tokens:
        raise ValueError(f"cannot pool {flat.shape[1]} tokens into {tokens}: ask for at most {flat.shape[1]}")
    return nn.functional.adaptive_avg_pool1d(flat.transpose(1, 2), tokens).transpose(1, 2)


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Fixed positions of the transformer papers, sine on even and cosine on odd channels: (1, length, width)."""
    position = torch.arange(length).float()[:, None]
    frequency = torch.exp(torch.arange(0, width, 2).float() * -(torch.log(torch.tensor(10_000.0)) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table[None]


def moving_average(x: Tensor, samples: int) -> Tensor:
    """Centred mean over an odd number of samples along the last axis, the ends held: (B, C, S) to (B, C, S)."""
    ends = nn.functional.pad(x, (samples // 2, samples // 2), mode="replicate")
    return nn.functional.avg_pool1d(ends, samples, stride=1)

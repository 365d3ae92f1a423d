"""TEMPO (Cao et al., ICLR 2024, arXiv 2310.04948): trend, season and residual of each lead through GPT-2 with prompts.

The official code is DC-research/TEMPO (weights Apache-2.0); the attribute names are those of its checkpoints. GPT-2 is
transformers', its adapters are peft's.

Legend: B batch, C 12 leads, N = B x C series, S samples, 3 parts, P 42 patches, Q 9 prompt tokens, W width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ecgmoe.backbones import base
from ecgmoe.backbones.base import Lora, moving_average
from ecgmoe.backbones.checkpoints import (
    CheckpointError,
    count_layers,
    load_strictly,
    official_file,
    read_state,
    size_of,
)
from ecgmoe.backbones.provenance import Provenance

HUB_FILE = "TEMPO-80M_v1.pth"
LICENCE = "Apache-2.0"
PRETRAINING = "time series of other domains for forecasting (its paper lists them), on a GPT-2 trained on web text"
PARTS = ("trend", "season", "noise")
PROMPT = (47, 17407, 262, 2003, 640, 2239, 1813, 262)
"""GPT-2's tokens of "Predict the future time step given the"."""
PART_TOKEN = {"trend": 5182, "season": 1622, "noise": 29598}
VOCABULARY = (*dict.fromkeys(PROMPT), *PART_TOKEN.values())
"""Only these rows of GPT-2's word embedding are kept: no other token is ever looked up."""
KERNEL = 25
PATCH, STRIDE = 16, 8
LORA_ALPHA = 16.0
PREFIX = "gpt2_trend.base_model.model."
NOT_THE_ENCODER = ("map_resid.", "mul_season.", "out_layer_", "rev_in_season.", "rev_in_noise.")
"""Forecasting heads, and what the official code makes and never uses."""


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of TEMPO.

    Attributes:
        samples: S.
        tokens: pooled tokens; 4 are the means over three neighbouring leads each.
        width: W.
        layers: of GPT-2; the published configuration says 6, its file holds 3.
        heads: of its attention.
        rank: of the adapters that TEMPO was trained with.
        season_width: inner width of the network that finds the season.
        positions: rows of GPT-2's position embedding.
    """

    samples: int = 336
    tokens: int = 4
    width: int = 768
    layers: int = 3
    heads: int = 12
    rank: int = 16
    season_width: int = 1344
    positions: int = 1024


class RevIn(nn.Module):
    """Reversible instance normalisation: population standard deviation, scalar affine."""

    def __init__(self) -> None:
        super().__init__()
        self.affine_weight = nn.Parameter(torch.ones(1))
        self.affine_bias = nn.Parameter(torch.zeros(1))

    def forward(self, x_NS: Tensor) -> Tensor:
        std = (x_NS.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return (x_NS - x_NS.mean(-1, keepdim=True)) / std * self.affine_weight + self.affine_bias


def gpt2(architecture: Architecture) -> Any:
    """transformers' GPT-2 at random weights with TEMPO's adapters, without dropout and cache."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import GPT2Config, GPT2Model

    net = GPT2Model(
        GPT2Config(
            vocab_size=len(VOCABULARY),
            n_positions=architecture.positions,
            n_embd=architecture.width,
            n_layer=architecture.layers,
            n_head=architecture.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    lora = LoraConfig(
        r=architecture.rank,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0.0,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
    )
    return inject_adapter_in_model(lora, net)


class Tempo(base.Backbone):
    """The encoder of TEMPO; the feature is (B, 12, 3, 42, W), GPT-2's output at the patches of each part."""

    leads = "each alone"
    normalisation = "each lead to mean 0 and standard deviation 1 over the record, scaled by two learnt numbers"
    architecture_type = Architecture
    sizes = {
        "tiny": Architecture(width=32, layers=1, heads=2, rank=4, season_width=168, positions=160),
        "base": Architecture(),
        "large": Architecture(),
    }
    attention = ("c_attn",)

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=architecture.width)
        samples, width, season = architecture.samples, architecture.width, architecture.season_width
        self.rev_in_trend = RevIn()
        self.map_trend = nn.Linear(samples, samples)
        self.map_season = nn.Sequential(nn.Linear(samples, season), nn.ReLU(), nn.Linear(season, samples))
        self.in_layer = nn.ModuleDict({part: nn.Linear(PATCH, width) for part in PARTS})
        self.prompt_layer = nn.ModuleDict({part: nn.Linear(width, width) for part in PARTS})
        self.gpt2: Any = gpt2(architecture)
        self.own_lora = Lora(rank=architecture.rank, alpha=LORA_ALPHA)
        # peft froze all but the adapters; what trains is the mode's business.
        self.requires_grad_(True)

    @classmethod
    def from_official(cls, source: str) -> Self:
        """From a state dict; the hub has it as Melady/TEMPO."""
        file = official_file(source, "*.pth", hub_file=HUB_FILE)
        state = encoder_state(read_state(file), source)
        backbone = cls(read_architecture(state, source))
        load_strictly(backbone, state, source)
        backbone.provenance = Provenance.of_file(file, source=source, licence=LICENCE, pretraining=PRETRAINING)
        return backbone

    def add_lora(self, lora: Lora) -> None:
        """TEMPO has adapters of its own, published with its weights: these train."""
        if lora != self.own_lora:
            raise ValueError(
                f"TEMPO's adapters have rank {self.architecture.rank} and alpha {LORA_ALPHA:g}: leave lora_rank and "
                "lora_alpha unset"
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        self.lora = lora

    def split(self, x_NS: Tensor) -> dict[str, Tensor]:
        """A standardised series as trend, season and residual, (N, S) each; together they are the series."""
        trend = self.map_trend(moving_average(x_NS[:, None], KERNEL)[:, 0])
        season = self.map_season(x_NS - trend)
        return {"trend": trend, "season": season, "noise": x_NS - trend - season}

    def tokens_of(self, part: str, x_NS: Tensor) -> Tensor:
        """Prompt and patches of one part: (N, Q + P, W)."""
        padded = nn.functional.pad(x_NS[:, None], (0, STRIDE), mode="replicate")[:, 0]
        patches = self.in_layer[part](padded.unfold(-1, PATCH, STRIDE))
        rows = [VOCABULARY.index(token) for token in (*PROMPT, PART_TOKEN[part])]
        prompt = self.prompt_layer[part](self.gpt2.wte(torch.tensor(rows, device=x_NS.device)))
        return torch.cat([prompt.expand(x_NS.shape[0], -1, -1), patches], 1)

    def encode(self, x_BCS: Tensor) -> Tensor:
        """(B, C, S) to (B, C, 3, P, W); the signal may be in any unit."""
        parts = self.split(self.rev_in_trend(x_BCS.flatten(0, 1)))
        tokens = torch.cat([self.tokens_of(part, series) for part, series in parts.items()], 1)
        hidden = self.gpt2(inputs_embeds=tokens).last_hidden_state
        feature = hidden.unflatten(1, (len(PARTS), -1))[:, :, len(PROMPT) + 1 :]
        return feature.unflatten(0, x_BCS.shape[:2])

    def checkpoint_gradients(self) -> None:
        self.gpt2.activation_checkpointing_enable({"use_reentrant": False})


def encoder_state(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The encoder's weights under the names of `Tempo`.

    Raises:
        CheckpointError: the word embedding lacks the prompts' rows.
    """
    renamed = {}
    for key, value in state.items():
        # Causal masks that older transformers stored as buffers. The dot spares c_attn.bias.
        if key.startswith(NOT_THE_ENCODER) or re.search(r"\.attn\.(masked_)?bias$", key):
            continue
        key = re.sub(rf"^(in_layer|prompt_layer)_({'|'.join(PARTS)})\.", r"\1.\2.", key)
        if key.startswith(PREFIX):
            # Older peft kept the adapted layer's weights under its own name.
            key = re.sub(r"\.c_attn\.(weight|bias)$", r".c_attn.base_layer.\1", "gpt2." + key[len(PREFIX) :])
        renamed[key] = value
    if (rows := size_of(renamed, "gpt2.wte.weight", 0, source)) <= max(VOCABULARY):
        raise CheckpointError(f"{source}: gpt2.wte has {rows} rows, too few for GPT-2's vocabulary")
    renamed["gpt2.wte.weight"] = renamed["gpt2.wte.weight"][list(VOCABULARY)].clone()
    return renamed


def read_architecture(state: Mapping[str, Tensor], source: str) -> Architecture:
    """Sizes from the weights. Heads leave no trace in them: GPT-2's width of 64 each, four in narrower test models.

    Raises:
        CheckpointError: a weight is missing.
    """
    width = size_of(state, "gpt2.wte.weight", 1, source)
    return Architecture(
        samples=size_of(state, "map_trend.weight", 0, source),
        width=width,
        layers=count_layers(state, "gpt2.h.", source),
        heads=max(4, width // 64),
        rank=size_of(state, "gpt2.h.0.attn.c_attn.lora_A.default.weight", 0, source),
        season_width=size_of(state, "map_season.0.weight", 0, source),
        positions=size_of(state, "gpt2.wpe.weight", 0, source),
    )

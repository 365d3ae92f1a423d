"""The published encoders have the published numbers of weights; counted on the meta device, which allocates none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.ecgfm import EcgFm
from ecgmoe.backbones.moment import Architecture, Moment
from ecgmoe.backbones.tempo import Tempo

MOMENT_BASE = Architecture(width=768, feed_forward=2048, layers=12, heads=12)


def weights(module: nn.Module) -> int:
    assert all(parameter.is_meta for parameter in module.parameters())
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(kind: type[Backbone], architecture: object) -> Backbone:
    with torch.device("meta"):
        return kind(architecture)  # type: ignore[call-arg]


def test_ecgfm_base() -> None:
    backbone = on_meta(EcgFm, EcgFm.sizes["base"])
    assert weights(backbone) == 90_373_248
    assert (len(backbone.net.encoder.layers), backbone.width) == (12, 768)


@pytest.mark.parametrize(
    ("architecture", "millions"),
    [(Moment.sizes["base"], 35.3), (MOMENT_BASE, 109.6), (Moment.sizes["large"], 341.2)],
    ids=["MOMENT-1-small", "MOMENT-1-base", "MOMENT-1-large"],
)
def test_moment(architecture: Architecture, millions: float) -> None:
    backbone = on_meta(Moment, architecture)
    # The published counts hold the reconstruction head, which the encoder drops.
    head = 8 * architecture.width + 8
    assert round((weights(backbone) + head) / 1e6, 1) == millions


def test_moment_large_without_the_word_embedding_that_it_never_reads() -> None:
    backbone = on_meta(Moment, Moment.sizes["large"])
    assert round((weights(backbone) - backbone.net.encoder.embed_tokens.weight.numel()) / 1e6, 1) == 308.3


def test_tempo() -> None:
    backbone = on_meta(Tempo, Tempo.sizes["base"])
    assert (len(backbone.gpt2.h), backbone.width, backbone.architecture.rank) == (3, 768, 16)
    # GPT-2's layer of 12 heads has 7,087,872 weights; the adapter of a layer 16 x (768 + 2304).
    assert weights(backbone.gpt2.h) == 3 * (7_087_872 + 16 * (768 + 2304))
    assert weights(backbone.map_season) == 336 * 1344 * 2 + 1344 + 336

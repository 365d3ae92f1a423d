"""ECG-FM (McKeen et al., 2024, arXiv 2408.05178): wav2vec 2.0 on 12 leads, through transformers' Wav2Vec2.

The official code is fairseq-signals (MIT). It differs from audio in three ways: 12 input channels, per-lead z-scores, and
segments of 5 s. No mask and fixed lengths only: transformers zeroes padding before the positional convolution, fairseq
after it.

Legend: B batch, C 12 leads, S samples, F frames, W width.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2PositionalConvEmbedding

from ecgmoe.backbones import base
from ecgmoe.backbones.checkpoints import (
    CheckpointError,
    count_layers,
    load_strictly,
    official_file,
    read_torch,
    size_of,
    tensors_of,
)
from ecgmoe.backbones.provenance import Provenance

HUB_FILE = "mimic_iv_ecg_physionet_pretrained.pt"
LICENCE = "MIT"
PRETRAINING = {
    "wav2vec2_cmsc": "waveforms of MIMIC-IV-ECG 1.0 and PhysioNet/CinC 2021",
    "ecg_transformer_classifier": "waveforms of MIMIC-IV-ECG 1.0 and PhysioNet/CinC 2021, then fine-tuned on labels "
    "(mimic_iv_ecg_finetuned.pt: on labels mined from the reports of MIMIC-IV-ECG)",
}
"""By the model's name in the file, from the README of bowang-lab/ECG-FM."""
HEAD_WIDTH = 64
NOT_THE_ENCODER = ("mask_emb", "quantizer.", "project_q.", "final_proj.")
"""Keys of the pretraining objective."""
KEYS = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^conv_pos\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    # Older files spell weight norm as torch did before its parametrizations.
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"\.self_attn\.", ".attention."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
"""fairseq's names and transformers' for the same weights; applied in this order."""


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of ECG-FM.

    Attributes:
        samples: S of a whole record: ECG-FM takes 500 Hz as they are.
        tokens: pooled tokens; 4 are the means over 2.5 s each.
        segment: samples that are encoded at once, 5 s as in the pretraining.
        convolutions: (channels, kernel, stride) of each convolution.
        width: W.
        feed_forward: inner width of the feed-forward layers.
        layers: of the transformer.
        heads: of its attention.
        position_kernel, position_groups: of the convolution that gives positions.
    """

    samples: int = 5000
    tokens: int = 4
    segment: int = 2500
    convolutions: tuple[tuple[int, int, int], ...] = ((256, 2, 2),) * 4
    width: int = 768
    feed_forward: int = 3072
    layers: int = 12
    heads: int = 12
    position_kernel: int = 128
    position_groups: int = 16


class PositionalConvolution(Wav2Vec2PositionalConvEmbedding):
    """transformers' own, always in fp32 on a CPU.

    oneDNN's bf16 kernel for grouped convolutions of fewer than 16 channels a group gives wrong sums on CPUs with AMX
    (torch 2.13: off by the size of the result).
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.device.type != "cpu":
            return super().forward(hidden_states)
        with torch.autocast("cpu", enabled=False):
            return super().forward(hidden_states.float())


def wav2vec2(architecture: Architecture) -> Any:
    """transformers' model at random weights, with 12 input channels and without masking and dropout."""
    channels, kernels, strides = zip(*architecture.convolutions, strict=True)
    net = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=architecture.width,
            intermediate_size=architecture.feed_forward,
            num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads,
            conv_dim=channels,
            conv_kernel=kernels,
            conv_stride=strides,
            num_conv_pos_embeddings=architecture.position_kernel,
            num_conv_pos_embedding_groups=architecture.position_groups,
            feat_extract_norm="group",
            do_stable_layer_norm=False,
            layer_norm_eps=1e-5,
            # Without these it would make an embedding of masked frames, which nothing here uses.
            apply_spec_augment=False,
            mask_time_prob=0.0,
            mask_feature_prob=0.0,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
        )
    )
    net.encoder.pos_conv_embed = PositionalConvolution(net.config)
    first = net.feature_extractor.conv_layers[0]
    first.conv = nn.Conv1d(12, channels[0], kernels[0], strides[0], bias=False)
    for module in (first.conv, net.encoder.pos_conv_embed):
        module.apply(net._init_weights)
    return net


class EcgFm(base.Backbone):
    """The encoder of ECG-FM; the feature of a segment of 5 s is (B, 156, W)."""

    leads = "together"
    normalisation = "each lead to mean 0 and standard deviation 1 over the record, a constant lead to 0"
    architecture_type = Architecture
    sizes = {
        "tiny": Architecture(
            convolutions=((32, 10, 5), (32, 2, 2), (32, 2, 2), (32, 2, 2)),
            width=48,
            feed_forward=96,
            layers=1,
            heads=4,
            position_kernel=16,
            position_groups=8,
        ),
        "base": Architecture(),
        "large": Architecture(),
    }
    attention = ("q_proj", "v_proj")

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=architecture.width)
        self.net: Any = wav2vec2(architecture)

    @classmethod
    def from_official(cls, source: str) -> Self:
        """From a fairseq state; the hub has it as wanglab/ecg-fm."""
        file = official_file(source, "*.pt", hub_file=HUB_FILE)
        content = read_torch(file)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise CheckpointError(f"{source} is not a fairseq state (no 'model' in it)")
        settings = (content.get("cfg") or {}).get("model") or {}
        kind = settings.get("_name")
        if kind not in PRETRAINING:
            raise CheckpointError(f"{source} holds a model {kind!r}; ECG-FM is one of {', '.join(PRETRAINING)}")
        state = encoder_state(tensors_of(content["model"], source), kind)
        backbone = cls(read_architecture(state, settings, source))
        load_strictly(backbone.net, state, source)
        backbone.provenance = Provenance.of_file(file, source=source, licence=LICENCE, pretraining=PRETRAINING[kind])
        return backbone

    def own_input(self, x_BCT: Tensor) -> Tensor:
        x = super().own_input(x_BCT)
        centred = x - x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True, correction=0)
        # Rounding leaves a constant lead with a spread of its own size times 1e-7, which must not be scaled up to 1.
        return (centred / std.clamp(min=1e-12)).where(std > 1e-6 * x.abs().amax(-1, keepdim=True), 0.0)

    def encode(self, x_BCS: Tensor) -> Tensor:
        """(B, 12, S) z-scores to (B, F, W); transformers' own forward would insert the one channel of audio."""
        frames = x_BCS
        for layer in self.net.feature_extractor.conv_layers:
            frames = layer(frames)
        hidden, _ = self.net.feature_projection(frames.transpose(1, 2))
        return self.net.encoder(hidden).last_hidden_state

    def forward(self, x_BCT: Tensor) -> Tensor:
        """As the interface says; each segment is encoded by itself."""
        x = self.own_input(x_BCT).unflatten(-1, (-1, self.architecture.segment)).transpose(1, 2)
        feature = self.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return base.pool_tokens(feature, self.tokens)

    def checkpoint_gradients(self) -> None:
        self.net.activation_checkpointing_enable({"use_reentrant": False})


def encoder_state(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The encoder's weights under transformers' names."""
    if kind == "ecg_transformer_classifier":
        state = {key.removeprefix("encoder."): value for key, value in state.items() if not key.startswith("proj.")}
    renamed = {}
    for key, value in state.items():
        if not key.startswith(NOT_THE_ENCODER):
            for pattern, replacement in KEYS:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
    return renamed


def read_architecture(state: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> Architecture:
    """Sizes from the weights, and from the settings what no shape tells: strides and attention heads.

    Raises:
        CheckpointError: a weight is missing, or the settings cannot be read.
    """
    convolution = "feature_extractor.conv_layers.{}.conv.weight"
    count = count_layers(state, "feature_extractor.conv_layers.", source)
    width = size_of(state, "feature_projection.projection.weight", 0, source)
    position = "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    leads = size_of(state, convolution.format(0), 1, source)
    if leads != 12:
        raise CheckpointError(f"{source} takes {leads} leads and not 12")
    return Architecture(
        convolutions=tuple(
            (*(size_of(state, convolution.format(layer), axis, source) for axis in (0, 2)), stride)  # type: ignore[misc]
            for layer, stride in enumerate(strides(settings, count, source))
        ),
        width=width,
        feed_forward=size_of(state, "encoder.layers.0.feed_forward.intermediate_dense.weight", 0, source),
        layers=count_layers(state, "encoder.layers.", source),
        heads=settings.get("encoder_attention_heads") or width // HEAD_WIDTH,
        position_kernel=size_of(state, position, 2, source),
        position_groups=width // size_of(state, position, 1, source),
    )


def strides(settings: Mapping[str, Any], count: int, source: str) -> list[int]:
    """Stride of each convolution: `conv_feature_layers` is Python source like "[(256, 2, 2)] * 4", 2 where it is absent.

    Raises:
        CheckpointError: it is anything but lists of integers, repeated and joined.
    """
    text = settings.get("conv_feature_layers")
    if text is None:
        return [2] * count
    try:
        layers = _literal(ast.parse(text, mode="eval").body)
        found = [stride for _, _, stride in layers]
    except (SyntaxError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: conv_feature_layers {text!r} is not a list of convolutions") from error
    if len(found) != count:
        raise CheckpointError(f"{source}: conv_feature_layers {text!r} names {len(found)} convolutions, it has {count}")
    return found


def _literal(node: ast.expr) -> Any:
    """A literal in which lists may also be added and repeated; nothing else is evaluated."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        layers, times = _literal(node.left), _literal(node.right)
        if not isinstance(layers, list) or not isinstance(times, int) or times > 64:
            raise ValueError("not a list repeated")
        return layers * times
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    return ast.literal_eval(node)

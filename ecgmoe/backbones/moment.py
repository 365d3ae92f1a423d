"""MOMENT (Goswami et al., ICML 2024, arXiv 2402.03885) through the package momentfm: each lead alone, 64 patches of 8.

Built from sizes alone, without asking a hub: the T5 configuration is given as values.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ecgmoe.backbones import base
from ecgmoe.backbones.checkpoints import CheckpointError, load_strictly, read_state
from ecgmoe.backbones.provenance import Provenance

LICENCE = "MIT"
PRETRAINING = "the Time Series Pile of its paper (public series of many domains, some ECGs among them)"
SAMPLES = 512
PATCH = 8
FIXED: dict[str, Any] = {
    "transformer_type": "encoder_only",
    "seq_len": SAMPLES,
    "patch_len": PATCH,
    "patch_stride_len": PATCH,
}
"""What all published checkpoints have in common and no weight's shape tells."""
FIXED_T5: dict[str, Any] = {
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
"""The same of their T5 encoders."""


@dataclass(frozen=True, kw_only=True)
class Architecture(base.Architecture):
    """Sizes of MOMENT.

    Attributes:
        samples: S, 512 in every published size.
        tokens: pooled tokens; 4 are the means over three neighbouring leads each.
        width: W, T5's d_model.
        feed_forward: T5's d_ff.
        layers: of the encoder.
        heads: of its attention.
        head_width: T5's d_kv.
        vocabulary: rows of T5's unused word embedding, kept because official files hold it.
    """

    samples: int = SAMPLES
    tokens: int = 4
    width: int
    feed_forward: int
    layers: int
    heads: int
    head_width: int = 64
    vocabulary: int = 32128


def pipeline(architecture: Architecture) -> Any:
    """momentfm's model for embedding, all parameters trainable, without dropout and gradient checkpointing.

    Raises:
        ImportError: momentfm is not installed; the message says how to install it.
    """
    try:
        from momentfm import MOMENTPipeline
    except ImportError as error:
        raise ImportError(
            "the backbone 'moment' needs the package momentfm: install ecgmoe[moment] with uv, which reads the relaxed "
            "metadata in pyproject.toml (`uv pip install -c constraints.txt 'ecgmoe[moment]'`)"
        ) from error
    t5 = FIXED_T5 | {
        "d_model": architecture.width,
        "d_ff": architecture.feed_forward,
        "num_layers": architecture.layers,
        "num_heads": architecture.heads,
        "d_kv": architecture.head_width,
        "vocab_size": architecture.vocabulary,
        "dropout_rate": 0.0,
        "model_type": "t5",
        "is_encoder_decoder": True,
        "use_cache": False,
    }
    config = FIXED | {
        "task_name": "embedding",
        "model_name": "MOMENT",
        "d_model": architecture.width,
        "patch_dropout": 0.0,
        # Only a label here: momentfm builds the encoder from t5_config.
        "transformer_backbone": "google/flan-t5-small",
        "t5_config": t5,
        "enable_gradient_checkpointing": False,
        "freeze_embedder": False,
        "freeze_encoder": False,
    }
    with warnings.catch_warnings():
        # It warns that heads other than the reconstruction's are not pretrained; none is used.
        warnings.simplefilter("ignore")
        return MOMENTPipeline(config, model_kwargs={"task_name": "embedding"})


class Moment(base.Backbone):
    """The encoder of MOMENT; the feature is (B, 12, 64, W)."""

    leads = "each alone"
    normalisation = "each lead to mean 0 and standard deviation 1 over the record"
    architecture_type = Architecture
    sizes = {
        "tiny": Architecture(width=64, feed_forward=128, layers=2, heads=4, head_width=16, vocabulary=8),
        "base": Architecture(width=512, feed_forward=1024, layers=8, heads=6),
        "large": Architecture(width=1024, feed_forward=2816, layers=24, heads=16),
    }
    # T5's names of query and value.
    attention = ("q", "v")

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, width=architecture.width)
        self.net: Any = pipeline(architecture)
        # Never read, because patches come as embeddings; it would train on nothing.
        self.net.encoder.embed_tokens.requires_grad_(False)
        self.net.normalizer.register_forward_hook(whole_gradient, with_kwargs=True)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        super().requires_grad_(requires_grad)
        self.net.encoder.embed_tokens.requires_grad_(False)
        return self

    @classmethod
    def from_official(cls, source: str) -> Self:
        """From a folder with config.json and model.safetensors; the hub has AutonLab/MOMENT-1-{small,base,large}."""
        folder = checkpoint_folder(source)
        weights = folder / "model.safetensors"
        backbone = cls(read_architecture(folder / "config.json"))
        # The reconstruction head is no part of the encoder.
        state = {key: value for key, value in read_state(weights).items() if not key.startswith("head.")}
        load_strictly(backbone.net, state, source)
        backbone.provenance = Provenance.of_file(weights, source=source, licence=LICENCE, pretraining=PRETRAINING)
        return backbone

    def encode(self, x_BCS: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """(B, C, 512) in any unit to (B, C, 64, W); each lead is standardised by MOMENT itself.

        Args:
            x_BCS: the signal.
            mask_BS: 1 where a sample was observed; None where all were, as in every canonical record.
        """
        return self.net.embed(x_enc=x_BCS, input_mask=mask_BS, reduction="none").embeddings

    def checkpoint_gradients(self) -> None:
        self.net.encoder.activation_checkpointing_enable({"use_reentrant": False})


def whole_gradient(normalizer: Any, _: tuple[Any, ...], given: dict[str, Any], standardised: Tensor) -> Tensor | None:
    """A forward hook of momentfm's normalisation, which takes a lead's mean and deviation for constants in the gradient.

    Weights train the same without it, because nothing trains before it. What an ECG adds to a prediction would be wrong.
    The values stay momentfm's, bit for bit.
    """
    x_BCS = given["x"]
    if not x_BCS.requires_grad:
        return None
    share = given["mask"][:, None] / given["mask"].sum(-1)[:, None, None]
    centred = x_BCS - (x_BCS * share).sum(-1, keepdim=True)
    # A root has no gradient at 0: a lead whose deviation is under a nanovolt is constant.
    std = (centred.square() * share).sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    same = centred / (std + normalizer.eps)
    return standardised.detach() + (same - same.detach())


def checkpoint_folder(source: str) -> Path:
    """The folder of a checkpoint, fetched from the hub where `source` is no local one.

    Raises:
        CheckpointError: it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["config.json", "model.safetensors"]))
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{source} is no local folder and could not be fetched from the hub ({str(error)[:200]}): give a folder with "
            "config.json and model.safetensors, or an id like AutonLab/MOMENT-1-small"
        ) from error


def read_architecture(path: Path) -> Architecture:
    """The sizes in a checkpoint's config.json.

    Raises:
        CheckpointError: it is missing, torn, or describes another kind of encoder.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no config.json: a MOMENT checkpoint is a folder with config.json and model.safetensors"
        )
    try:
        config = json.loads(path.read_text())
        t5 = config["t5_config"]
        architecture = Architecture(
            width=t5["d_model"],
            feed_forward=t5["d_ff"],
            layers=t5["num_layers"],
            heads=t5["num_heads"],
            head_width=t5["d_kv"],
            vocabulary=t5["vocab_size"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is torn or not a configuration of MOMENT ({error!r})") from error
    other = [
        f"{key} {values[key]!r} instead of {expected!r}"
        for values, fixed in ((config, FIXED), (t5, FIXED_T5))
        for key, expected in fixed.items()
        if values.get(key, expected) != expected
    ]
    if other:
        raise CheckpointError(f"{path} describes another encoder than MOMENT-1: {', '.join(other)}")
    return architecture

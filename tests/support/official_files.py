"""Checkpoints as the official implementations write them, made here from encoders with other weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ecgmoe.backbones.ecgfm import EcgFm
from ecgmoe.backbones.moment import Moment
from ecgmoe.backbones.tempo import VOCABULARY, Tempo
from ecgmoe.backbones.timesnet import TimesNet

TOKEN_CONVOLUTION = "enc_embedding.value_embedding.tokenConv.weight"


def timesnet_state(backbone: TimesNet, head: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder under its official names, with a head and the calendar embedding that official files hold."""
    state = dict(backbone.state_dict())
    state[TOKEN_CONVOLUTION] = state.pop("tokens_conv.weight")
    return state | {"enc_embedding.temporal_embedding.embed.weight": torch.zeros(8, 4)} | head


def moment_folder(folder: Path, backbone: Moment, **changes: Any) -> Path:
    """A checkpoint as momentfm publishes it, with its reconstruction head."""
    sizes = backbone.describe()
    config = {
        "transformer_type": "encoder_only",
        "d_model": None,
        "seq_len": 512,
        "patch_len": 8,
        "patch_stride_len": 8,
        "transformer_backbone": "google/flan-t5-small",
        "t5_config": {
            "d_model": sizes["width"],
            "d_ff": sizes["feed_forward"],
            "num_layers": sizes["layers"],
            "num_heads": sizes["heads"],
            "d_kv": sizes["head_width"],
            "vocab_size": sizes["vocabulary"],
            "feed_forward_proj": "gated-gelu",
        },
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    head = {"head.linear.weight": torch.zeros(8, sizes["width"])}
    save_file(backbone.net.state_dict() | head, folder / "model.safetensors")
    return folder


def jittered(backbone: Any) -> Any:
    """Every weight moved, so that none of them could be lost unseen (adapters start at 0, norms at 1)."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone.eval()


def tempo_state(backbone: Tempo, *, old_peft: bool = False) -> dict[str, torch.Tensor]:
    """The encoder under TEMPO's names, with GPT-2's whole word embedding and what the official code never uses."""
    state = {}
    for key, value in backbone.state_dict().items():
        key = re.sub(r"^(in_layer|prompt_layer)\.(\w+)\.", r"\1_\2.", key)
        key = re.sub(r"^gpt2\.", "gpt2_trend.base_model.model.", key)
        state[key.replace(".base_layer.", ".") if old_peft else key] = value
    words = torch.zeros(29_700, backbone.width)
    words[list(VOCABULARY)] = state["gpt2_trend.base_model.model.wte.weight"]
    state["gpt2_trend.base_model.model.wte.weight"] = words
    state |= {"map_resid.weight": torch.zeros(3), "mul_season.a": torch.zeros(2, 1), "out_layer_noise.bias": words[0]}
    state |= {f"rev_in_{part}.affine_weight": torch.ones(1) for part in ("season", "noise")}
    if old_peft:
        # So do older transformers: their causal masks were buffers.
        at = "gpt2_trend.base_model.model.h.0.attn"
        state |= {f"{at}.bias": torch.ones(1, 1, 8, 8), f"{at}.masked_bias": torch.tensor(-1e4)}
    return state


def ecgfm_file(
    path: Path, backbone: EcgFm, *, classifier: bool = False, old_norm: bool = False, **changes: Any
) -> Path:
    """A fairseq state of pretraining or of a fine-tuned classifier."""
    names = {
        "feature_projection.layer_norm.": "layer_norm.",
        "feature_projection.projection.": "post_extract_proj.",
        "encoder.pos_conv_embed.conv.": "conv_pos.pos_conv.0.",
        "feature_extractor.conv_layers.0.layer_norm.": "feature_extractor.conv_layers.0.2.",
    }
    state: dict[str, torch.Tensor] = {}
    for key, value in backbone.net.state_dict().items():
        for ours, theirs in names.items():
            key = theirs + key[len(ours) :] if key.startswith(ours) else key
        key = re.sub(r"(conv_layers\.\d+)\.conv\.", r"\1.0.", key)
        if key.startswith("encoder.layers."):
            key = re.sub(r"(layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm.", key)
        for ours, theirs in (
            (".attention.", ".self_attn."),
            ("feed_forward.intermediate_dense", "fc1"),
            ("feed_forward.output_dense", "fc2"),
        ):
            key = key.replace(ours, theirs)
        if old_norm:
            key = key.replace("parametrizations.weight.original0", "weight_g")
            key = key.replace("parametrizations.weight.original1", "weight_v")
        state[key] = value
    if classifier:
        state = {f"encoder.{key}": value for key, value in state.items()} | {"proj.weight": torch.zeros(2, 3)}
    else:
        state |= {"mask_emb": torch.zeros(3), "quantizer.vars": torch.zeros(3), "final_proj.bias": torch.zeros(2)}
    sizes = backbone.architecture
    settings = {
        "_name": "ecg_transformer_classifier" if classifier else "wav2vec2_cmsc",
        "conv_feature_layers": f"{list(sizes.convolutions[:1])} + {list(sizes.convolutions[1:2])} * 3",
        "encoder_attention_heads": sizes.heads,
        **changes,
    }
    content = {"args": None, "cfg": {"model": settings}, "model": state, "optimizer_history": [], "extra_state": {}}
    torch.save(content, path)
    return path


OFFICIAL = {
    "dlinear": lambda folder, it: torch.save(it.state_dict(), folder / "a.pth"),
    "timesnet": lambda folder, it: torch.save(
        timesnet_state(it, {"projection.weight": torch.zeros(5, 250 * 8)}), folder / "a.pth"
    ),
    "moment": lambda folder, it: moment_folder(folder / "moment", it),
    "tempo": lambda folder, it: torch.save(tempo_state(it), folder / "a.pth"),
    "ecgfm": lambda folder, it: ecgfm_file(folder / "a.pt", it),
}

"""Which tables there are, and what stands in their columns. Free of torch and Ray, as a command line needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require
from ecgmoe.tuning.paper import BACKBONES
from ecgmoe.variants import variant

TableName = Literal["table1", "table2", "table3", "ablations", "rq3"]
ABLATIONS = (
    "ecg_moe",
    "no_rhythm_experts",
    "no_morphology_experts",
    "no_periodic_path",
    "no_multi_model_path",
    "no_late_backbones",
    "no_gate",
    "no_task_conditioning",
    "no_lora",
    "no_contrastive_term",
    "multi_task_baseline",
    "residual_network",
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Variants beside each other.

    Attributes:
        name: of the table and its files.
        title: as a reader sees it.
        variants: its columns.
        reference: one of them, with which the others are compared.
    """

    name: str
    title: str
    variants: tuple[str, ...]
    reference: str


def tables_of(config: RunConfig, names: Sequence[str]) -> tuple[Table, ...]:
    """The tables of these names; "rq3" is none, since nothing of it is trained.

    Raises:
        ValueError: the configuration lacks what a table is about.
    """
    there = {each.name for each in config.backbones}
    own = [name for name in BACKBONES if name in there]
    found = []
    for name in dict.fromkeys(names):
        if name in ("table1", "table2"):
            require(bool(own), f"{name} is about {', '.join(BACKBONES)}, and the configuration has none of them")
        if name == "table1":
            found.append(
                Table(
                    name=name,
                    title="Table 1: backbones with untrained heads (what the paper calls zero-shot) and linear probes",
                    variants=tuple(f"{kind}_{each}" for kind in ("untrained", "probe") for each in own),
                    # The one that was made for ECGs, where there is one.
                    reference=f"probe_{own[-1]}",
                )
            )
        elif name == "table2":
            title = "Table 2: single backbones and ECG-MoE"
            columns = (*(f"single_{each}" for each in own), "ecg_moe")
            found.append(Table(name=name, title=title, variants=columns, reference="ecg_moe"))
        elif name == "table3":
            title = "Table 3: mixtures and attentions"
            columns = ("moe", "time_moe", "self_attn", "cross_attn", "ecg_moe")
            found.append(Table(name=name, title=title, variants=columns, reference="ecg_moe"))
        elif name == "ablations":
            title = "Ablations and baselines: one part left out, or another model in its place"
            # What the configuration does without already is no ablation of it.
            columns = tuple(each for each in ABLATIONS if each == "ecg_moe" or variant(each, config) != config)
            found.append(Table(name=name, title=title, variants=columns, reference="ecg_moe"))
    return tuple(found)

"""The dataset card: what prepare found and made, as numbers (card.json) and as a page (card.html)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.datasets.schema import SPLITS, UNUSED, StudyIndex
from ecgmoe.ecg.rhythm import TAXONOMIES
from ecgmoe.pipeline.card_page import Example, Names, render
from ecgmoe.pipeline.config import ROW_GROUP_ROWS
from ecgmoe.pipeline.reasons import general_reason
from ecgmoe.pipeline.record_shard import Exclusion
from ecgmoe.pipeline.schema import shard_name, signals_of
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import task_table

NAMES = Names(
    distributions={
        "age_years": ("age", "years"),
        "rr_label_ms": ("RR interval", "ms"),
        "potassium_mmol": ("potassium", "mmol/L"),
        "potassium_gap_minutes": ("laboratory after ECG", "minutes"),
    },
    classes={"sex_female": ("male", "female"), "potassium_abnormal": ("normal", "abnormal"), **TAXONOMIES},
    titles={
        "sex_female": "Sex",
        "potassium_abnormal": "Potassium",
        "rhythm15": "Rhythm, clinical classes (rhythm15)",
        "report0_15": "Rhythm, the paper's list (report0_15)",
    },
    flags={
        "rr_disagrees": "whose detected RR differs from the label by more than 10 %, of those that have both",
        "quality_few_beats": "with fewer than three R peaks",
        "quality_flat_leads": "with a flat lead",
        "quality_zero_leads": "with an all-zero lead",
        "quality_clipped_leads": "with a clipped lead",
        "quality_lead_off_leads": "with an electrode lost for a second or longer",
        "quality_noisy_leads": "with a noisy lead",
        "quality_masked_leads": "with a masked lead",
        "quality_padded_samples": "padded to 10 s",
    },
)
EINTHOVEN_UV = 5.0
BINS = 24
EXAMPLES = 4


def write_card(
    store: Store,
    manifest: dict[str, Any],
    index: StudyIndex,
    labels: pa.Table,
    stored: pa.Table,
    exclusions: Sequence[Exclusion],
) -> None:
    """Write card.json and card.html.

    Args:
        store: the prepared folder, whose shards are all there.
        manifest: what will be written as manifest.json.
        index: what the dataset reader delivered.
        labels: rows of `LABEL_SCHEMA`.
        stored: the columns of `RECORD_SCHEMA` that hold no waveform, in the same order.
        exclusions: every study that was left out.
    """
    card = summary(manifest, index, labels, stored, exclusions)
    store.write_json("card.json", card)
    store.write_text("card.html", render(card, NAMES, _examples(store, labels)))


def summary(
    manifest: dict[str, Any],
    index: StudyIndex,
    labels: pa.Table,
    stored: pa.Table,
    exclusions: Sequence[Exclusion],
) -> dict[str, Any]:
    """The card's numbers; the arguments are those of `write_card`."""
    by_stage = Counter(stage for _, stage, _ in exclusions)
    readable = manifest["studies"] - by_stage["read"]
    steps = [
        *index.funnel,
        ("read as an ECG", readable),
        ("let through by the quality policy", readable - by_stage["quality"]),
    ]
    splits = [split for split in (*SPLITS, UNUSED) if split in manifest["splits"]]
    reasons = Counter((stage, general_reason(reason)) for _, stage, reason in exclusions)
    return {
        "dataset": manifest["dataset"],
        "simulated": manifest["dataset"] == "simulated",
        "records": len(labels),
        "patients": len(pc.unique(labels["patient_id"])),
        "funnel": [{"step": step, "studies": studies} for step, studies in steps],
        "exclusions": [
            {"stage": stage, "reason": reason, "studies": count}
            for (stage, reason), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ],
        "splits": {split: _split_counts(labels.filter(pc.equal(labels["split"], split))) for split in splits},
        "rr_sources": _counts(labels["rr_source"]),
        "classes": {
            column: {split: _class_counts(labels, column, split) for split in splits} for column in NAMES.classes
        },
        "unmapped": dict(index.unmapped),
        "class_names": {column: list(names) for column, names in NAMES.classes.items()},
        "distributions": {column: distribution(labels[column]) for column in NAMES.distributions},
        "flags": {name: _share(labels[name] if name in labels.column_names else stored[name]) for name in NAMES.flags},
        "einthoven_share": _share_below(stored["quality_einthoven_uv"], EINTHOVEN_UV),
        "options": {name: manifest[name] for name in ("quality", "reader", "index")},
        "digests": {name: manifest[name] for name in manifest if name.endswith("_sha256")},
        "versions": {name: manifest[name] for name in ("schema_version", "prepare_version")},
    }


def _split_counts(labels: pa.Table) -> dict[str, int]:
    """Patients, records, records with each task's label, and records with low and with high potassium."""
    counts = {"patients": len(pc.unique(labels["patient_id"])), "records": len(labels)}
    tasks = [*task_table(), *task_table(("arrhythmia",), "report0_15")]
    counts |= {task.label: len(labels) - labels[task.label].null_count for task in tasks}
    return counts | {name: pc.sum(labels[name]).as_py() or 0 for name in ("potassium_hypo", "potassium_hyper")}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted(Counter(str(value or "no label") for value in column.to_pylist()).items()))


def _class_counts(labels: pa.Table, column: str, split: str) -> list[int]:
    values = labels[column].filter(pc.equal(labels["split"], split)).drop_null().to_numpy()
    return np.bincount(values.astype(np.int64), minlength=len(NAMES.classes[column])).tolist()


def _share(column: pa.ChunkedArray) -> float | None:
    """Share of the known values that are true or not 0; None where none is known."""
    known = column.cast(pa.bool_()).drop_null().to_numpy()
    return float(known.mean()) if len(known) else None


def _share_below(column: pa.ChunkedArray, limit: float) -> float | None:
    known = column.drop_null().to_numpy()
    return float((known <= limit).mean()) if len(known) else None


def distribution(column: pa.ChunkedArray) -> dict[str, Any]:
    """Count, moments, quantiles and a histogram of the values that are not null."""
    values: npt.NDArray[np.float64] = column.drop_null().to_numpy().astype(np.float64)
    if not len(values):
        return {"count": 0}
    counts, edges = np.histogram(values, bins=BINS)
    return {
        "count": len(values),
        "mean": round(float(values.mean()), 4),
        "sd": round(float(values.std()), 4),
        "quantiles": {str(q): round(float(np.quantile(values, q)), 4) for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)},
        "histogram": {"edges": [round(float(edge), 4) for edge in edges], "counts": counts.tolist()},
    }


def _examples(store: Store, labels: pa.Table) -> list[Example]:
    """The first record of each of the most frequent rhythm classes; of any, where no rhythm is known."""
    rhythm = labels["rhythm15"].fill_null(-1).to_numpy()
    frequent = [label for label, _ in Counter(rhythm.tolist()).most_common(EXAMPLES + 1) if label >= 0][:EXAMPLES]
    rows = [int(np.flatnonzero(rhythm == label)[0]) for label in frequent] or list(range(min(EXAMPLES, len(labels))))
    return [_example(store, labels.slice(row, 1).to_pylist()[0]) for row in rows]


def _example(store: Store, label: dict[str, Any]) -> Example:
    group, place = divmod(label["row"], ROW_GROUP_ROWS)
    with store.parquet(f"records/{shard_name(label['shard'])}") as file:
        record = file.read_row_group(group, columns=["signal", "r_peaks"]).slice(place, 1)
    known = label["rhythm15"] is not None
    rhythm = TAXONOMIES["rhythm15"][label["rhythm15"]] if known else "rhythm not known"
    rr = f", RR {label['rr_label_ms']:.0f} ms ({label['rr_source']})" if label["rr_label_ms"] else ""
    return Example(
        title=f"study {label['study_id']}: {rhythm}{rr}",
        signal=signals_of(record["signal"])[0],
        r_peaks=record["r_peaks"][0].as_py(),
    )

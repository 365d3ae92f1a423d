"""Checkpoints of two ranks in a run folder, written and damaged as a test says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.training.checkpoint_store import CheckpointStore


def files_of(step: int, size: int = 1000) -> Callable[[Path], None]:
    """Writes two files of a rank whose content tells the step."""

    def fill(folder: Path) -> None:
        rank = dist.get_rank()
        torch.save(torch.full((size,), float(step)), folder / f"rank-{rank}.pt")
        if rank == 0:
            (folder / "model").mkdir()
            (folder / "model" / "model.safetensors").write_bytes(bytes([step]) * size)

    return fill


def write_and_find(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run folders in one process group; call it on every rank.

    Args:
        cases: each with "root" (run folder), "scores" (of the checkpoints of steps 1, 2, ...), and "damage" (a key of
            `DAMAGE`, done to the last checkpoint, or None).

    Returns:
        By case: names of what is committed, the step that is found with its content on this rank, and the error.
    """
    return [_case(**case) for case in cases]


def _case(root: str, scores: list[float | None], damage: str | None) -> dict[str, Any]:
    store = CheckpointStore(Store(root))
    for step, score in enumerate(scores, 1):
        store.write(files_of(step), step=step, epoch=1, score=score)
    if dist.get_rank() == 0 and damage:
        folders = sorted((Path(root) / "checkpoints").iterdir())
        for folder in folders if damage == "all" else folders[-1:]:
            DAMAGE[damage](folder)
    dist.barrier()
    found, error, content = None, "", 0.0
    try:
        saved = store.last_whole()
    except StorageError as fault:
        error = str(fault)
    else:
        if saved:
            found = saved.step
            with store.opened(saved) as folder:
                content = torch.load(folder / f"rank-{dist.get_rank()}.pt", weights_only=True)[0].item()
    return {"committed": [each.name for each in store.committed()], "found": found, "content": content, "error": error}


def _cut(folder: Path) -> None:
    path = folder / "rank-1.pt"
    path.write_bytes(path.read_bytes()[:100])


def _change(folder: Path) -> None:
    path = folder / "rank-1.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "changed": _change,
    "missing": lambda folder: (folder / "rank-1.pt").unlink(),
    "manifest cut": lambda folder: (folder / "manifest.json").write_text('{"name": "st'),
    "never committed": lambda folder: (folder / "manifest.json").unlink(),
    "all": _cut,
}

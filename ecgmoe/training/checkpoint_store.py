"""Where the checkpoints of a run lie, and when one counts: each is committed by its manifest, which is written last.

    checkpoints/step-00000120-epoch-0004/...             what the ranks wrote, each its own files
    checkpoints/step-00000120-epoch-0004/manifest.json   size and digest of every file, and the score

A folder without a manifest was being written when its writers ended: it is never read, and the next start clears it away. An
older checkpoint goes only after the new one is whole. Two are kept, so that there is one to fall back to where a file of the
last one turns out to be damaged, and the best one besides. All calls but those of the driver are made by every rank.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ecgmoe.filesystem import temporary_folder
from ecgmoe.pipeline.store import StorageError, Store
from ecgmoe.training.collectives import gather_objects

KEPT = 2
"""Last checkpoints that are kept, besides the best."""
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-\d{8,}-epoch-\d{4,}")
_BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A committed checkpoint.

    Attributes:
        name: of its folder; sorted by name they are in the order of training.
        step: optimiser steps made.
        score: of its validation; None inside an epoch.
        files: size in bytes and sha256 by path in the folder.
    """

    name: str
    step: int
    score: float | None
    files: dict[str, dict[str, Any]]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Store) -> None:
        self.store = run / "checkpoints"

    def write(self, fill: Callable[[Path], None], *, step: int, epoch: int, score: float | None) -> None:
        """Save a checkpoint and then delete what it makes superfluous.

        Args:
            fill: writes this rank's files into an empty local folder.
            step: optimiser steps made.
            epoch: the epoch that comes next, or goes on.
            score: of its validation; None inside an epoch.

        Raises:
            StorageError: the disk is full, read-only or gone; checkpoints committed before are untouched.
        """
        name = f"step-{step:08d}-epoch-{epoch:04d}"
        if dist.get_rank() == 0:
            # One that an earlier attempt left, or that is damaged and was passed over.
            self._delete(name)
        self._wait()
        files = self._write_files(name, fill)
        of_ranks = gather_objects(files)
        if dist.get_rank() == 0:
            merged = {path: entry for each in of_ranks for path, entry in each.items()}
            saved = Saved(name=name, step=step, score=score, files=dict(sorted(merged.items())))
            (self.store / name).write_json(MANIFEST, asdict(saved))
            self._delete_superfluous()

    def _write_files(self, name: str, fill: Callable[[Path], None]) -> dict[str, dict[str, Any]]:
        target = self.store / name
        with temporary_folder() as folder:
            try:
                fill(folder)
            except Exception as error:
                # torch and safetensors tell of a full disk in words of their own. A write that fails as well has the number.
                (folder / "probe").write_bytes(bytes(1 << 20))
                raise error
            files = {}
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                relative = path.relative_to(folder).as_posix()
                digest = hashlib.sha256()
                with path.open("rb") as source, target.writing(relative) as file:
                    while block := source.read(_BLOCK):
                        digest.update(block)
                        file.write(block)
                files[relative] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
                # What is copied is not held twice.
                path.unlink()
            return files

    def last_whole(self) -> Saved | None:
        """The last checkpoint with all its files as they were written, or None where there has been none.

        Says so where a later one is damaged, and clears away what was never committed.

        Raises:
            StorageError: there are checkpoints, and all of them are damaged.
        """
        listed: Any = None
        if dist.get_rank() == 0:
            self.clear_unfinished()
            listed = [asdict(each) for each in self.committed()]
        entries = [Saved(**each) for each in gather_objects(listed)[0]]
        for saved in reversed(entries):
            shares = sorted(saved.files)[dist.get_rank() :: dist.get_world_size()]
            faults = [fault for each in gather_objects(self.faults(saved, shares)) for fault in each]
            if not faults:
                return saved
            if dist.get_rank() == 0:
                print(
                    f"DAMAGED CHECKPOINT {self.store.path(saved.name)} ({'; '.join(faults[:3])}): it is passed over, and the "
                    "run goes on from the one before",
                    flush=True,
                )
        if entries:
            raise StorageError(
                f"every checkpoint in {self.store.root} is damaged: bring its files back from a copy, or delete that folder "
                "to train the run from its beginning"
            )
        return None

    @contextlib.contextmanager
    def opened(self, saved: Saved) -> Iterator[Path]:
        """Its files as a local folder."""
        folder = self.store / saved.name
        if folder.local:
            yield Path(folder.root)
            return
        with temporary_folder() as local:
            for path in saved.files:
                (local / path).parent.mkdir(parents=True, exist_ok=True)
                folder.download(path, local / path)
            yield local

    def committed(self) -> list[Saved]:
        """All with a manifest, in the order of training. A manifest that cannot be read is one without files: damaged."""
        found = []
        for name in self._names():
            folder = self.store / name
            if not folder.exists(MANIFEST):
                continue
            try:
                found.append(Saved(**folder.read_json(MANIFEST)))
            except (StorageError, TypeError):
                step = int(name.split("-")[1])
                found.append(Saved(name=name, step=step, score=None, files={MANIFEST: {}}))
        return found

    def faults(self, saved: Saved, paths: list[str]) -> list[str]:
        """What is wrong with some of its files."""
        folder, found = self.store / saved.name, []
        for path in paths:
            expected = saved.files[path]
            try:
                size = folder.size(path)
                if path == MANIFEST:
                    found.append(f"{path} is torn")
                elif size != expected["bytes"]:
                    found.append(f"{path} has {size:,} bytes, not {expected['bytes']:,}")
                elif folder.sha256(path) != expected["sha256"]:
                    found.append(f"{path} has other content")
            except FileNotFoundError:
                found.append(f"{path} is missing")
            except StorageError:
                # A store that does not answer says nothing of the file.
                raise
            except OSError as error:
                found.append(f"{path} cannot be read: {error.strerror or error}")
        return found

    def best(self) -> Saved | None:
        """The best whole one for the driver to export: the last of those with the highest score, else the last one."""
        entries = self.committed()
        order = sorted(entries, key=lambda each: (each.score is not None, each.score or 0.0, each.name), reverse=True)
        for saved in order:
            model = [path for path in saved.files if path.startswith("model/")]
            faults = self.faults(saved, model) if model else [f"{MANIFEST} is torn"]
            if not faults:
                return saved
            print(f"DAMAGED CHECKPOINT {self.store.path(saved.name)} ({'; '.join(faults)}): not exported", flush=True)
        return None

    def clear_unfinished(self) -> None:
        """Delete what was never committed. Nobody may be writing."""
        for name in self._names():
            if not (self.store / name).exists(MANIFEST):
                (self.store / name).remove_partial()
                self.store.remove(name)

    def _delete_superfluous(self) -> None:
        entries = self.committed()
        scored = [each for each in entries if each.score is not None]
        best = max(scored, key=lambda each: (each.score, each.name), default=None)
        for each in entries[:-KEPT]:
            if best is None or each.name != best.name:
                self._delete(each.name)

    def _delete(self, name: str) -> None:
        # Without its manifest it counts no more, wherever the deletion ends.
        self.store.remove(f"{name}/{MANIFEST}")
        self.store.remove(name)

    def _names(self) -> list[str]:
        return [name for name in self.store.names() if _NAME.fullmatch(name)]

    @staticmethod
    def _wait() -> None:
        if dist.get_world_size() > 1:
            dist.barrier()

"""How far a stage is: a bar on a terminal, a line every two seconds in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from ecgmoe import metrics
from ecgmoe.readable import clock

EVERY_S = 2.0


class Progress:
    """Records done of all, records per second and time left.

    Args:
        stage: name at the head of the bar or of each line.
        total: records.
    """

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total, self.done = stage, total, 0
        self.start = self.last = time.perf_counter()
        self.bar = tqdm(total=total, desc=stage, unit=" records", smoothing=0.05) if sys.stdout.isatty() else None

    def add(self, records: int) -> None:
        """So many more records are done."""
        self.done += records
        metrics.add("stage_records", records, stage=self.stage)
        metrics.put("stage_records_to_do", self.total - self.done, stage=self.stage)
        if self.bar is not None:
            self.bar.update(records)
            if self.done == self.total:
                self.bar.close()
            return
        now = time.perf_counter()
        if now - self.last >= EVERY_S or self.done == self.total:
            self.last = now
            rate = self.done / (now - self.start)
            print(
                f"{self.stage}: {self.done:,} of {self.total:,} records, {rate:,.0f} records/s, "
                f"{clock((self.total - self.done) / rate)} left",
                flush=True,
            )

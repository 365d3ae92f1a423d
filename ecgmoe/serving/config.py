"""What a server may be told. Free of Ray and torch: command lines are built from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecgmoe.config_tools import require
from ecgmoe.ecg.quality_policy import QualityPolicy

NO_TOKEN = "none"
"""Value of `token_file` that lets everybody in who reaches the port; on loopback only."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """How a model is served.

    Attributes:
        model: path or URL of a model folder, such as STORAGE/NAME/model.
        token_file: holds the token that clients must show; None makes one at the first start in ECGMOE_HOME, "none" asks for
            no token and is taken on loopback only.
        hosts: names by which browsers and clients may call the server; none of them allows all. On loopback its own names.
        max_batch: records that are predicted in one pass at most.
        batch_wait_ms: so long a record waits for others of its batch; a busy server fills batches without waiting.
        max_queue: requests that are inside at the same time, for each ingress; more are answered with 503.
        max_body_mb: largest request.
        replicas: copies of the model.
        ingress_replicas: processes that read requests and find R peaks.
        num_gpus: GPUs, or a share of one, per copy of the model; None takes one where the cluster has any when it starts.
        pad_short: fill a record of less than 10 s with missing samples at its end, instead of refusing it.
        quality: which records are refused, and which leads are masked.
    """

    model: str
    token_file: str | None = None
    hosts: tuple[str, ...] = ()
    max_batch: int = 8
    batch_wait_ms: float = 0.0
    max_queue: int = 128
    max_body_mb: float = 16.0
    replicas: int = 1
    ingress_replicas: int = 1
    num_gpus: float | None = None
    pad_short: bool = False
    quality: QualityPolicy = field(default_factory=QualityPolicy)

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "replicas", "ingress_replicas"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(0 <= self.batch_wait_ms <= 10_000, f"batch_wait_ms must be in 0..10000, got {self.batch_wait_ms}")
        require(0 < self.max_body_mb <= 256, f"max_body_mb must be above 0 and at most 256, got {self.max_body_mb}")
        require(self.num_gpus is None or self.num_gpus >= 0, f"num_gpus must not be negative, got {self.num_gpus}")

    @property
    def max_body_bytes(self) -> int:
        """Largest request in bytes."""
        return int(self.max_body_mb * 1_000_000)

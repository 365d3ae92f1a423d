"""Where the weights of a backbone come from, and what their pretraining saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

OWN_TRAINING = "not published: known to whoever trained it"
"""For encoders of which nobody published weights, so that any file of them is the user's own."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Travels with the weights: in a converted file, in every model folder, into every report.

    Attributes:
        source: path or hub id that the weights were read from.
        sha256: of the official file.
        licence: of the weights.
        pretraining: the data that the pretraining saw; evaluating on the same records is no fair test.
    """

    source: str
    sha256: str
    licence: str
    pretraining: str

    @classmethod
    def of_file(cls, file: Path, *, source: str, licence: str, pretraining: str) -> Self:
        """The provenance of weights read from `file`."""
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # A local path says where a file lay, and more than a report should tell of a machine.
        name = Path(source).name if Path(source).exists() else source
        return cls(source=name, sha256=digest, licence=licence, pretraining=pretraining)

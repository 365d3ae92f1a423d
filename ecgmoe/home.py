"""Where data and results lie when nobody says: `$ECGMOE_HOME`, else the user's data folder."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The absolute default folder. Never the working directory: under `ray job submit` that is a throw-away copy."""
    chosen = os.environ.get("ECGMOE_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_data_dir("ecgmoe", appauthor=False))

"""What the pages of this project tell a user to type."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def python_block(page: str, beginning: str) -> str:
    """The Python code block of a page that begins with a line."""
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / page).read_text(), re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if block.startswith(beginning))

"""What went wrong in another process, from the traceback that comes back as text."""

from __future__ import annotations

import pydoc
import re

# The line of a traceback that names the exception. Ray's own wrap it and tell nothing more.
_EXCEPTION_LINE = re.compile(r"^(?!ray\.)([A-Za-z_][\w.]*(?:Error|Fault|Exception)): (.*)", re.MULTILINE)


def raised(traceback: str, *kinds: type[Exception]) -> Exception | None:
    """The last exception of a traceback, made anew from its message, where it is one of `kinds`; None for any other.

    What happens in a worker comes back as text, and Ray writes its own advice below it.
    """
    found = _EXCEPTION_LINE.findall(traceback)
    if not found:
        return None
    name, message = found[-1]
    kind = pydoc.locate(name)
    return kind(message) if isinstance(kind, type) and issubclass(kind, kinds) else None


def reason(error: object) -> str:
    """Why a worker failed, in one line."""
    text = str(error)
    if "worker process has died" in text or ("node" in text and "died" in text):
        if "low on memory" in text or ("OOM" in text and "memory usage" in text):
            return "Ray ended its process because the node ran low on memory"
        return "its process is gone (a signal, the kernel out of memory, or a lost node)"
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else repr(error)

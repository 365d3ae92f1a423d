"""What went wrong in another process, from the traceback that comes back as text."""

from __future__ import annotations

import pydoc
import re

# The line of a traceback that names the exception. Ray's own wrap it and tell nothing more.
_EXCEPTION_LINE = re.compile(r"^(?!ray\.)([A-Za-z_][\w.]*(?:Error|Fault|Exception)): (.*)", re.MULTILINE)


def raised(error: object, *kinds: type[Exception]) -> Exception | None:
    """The exception where it is one of `kinds`, or was one in the process that it comes from; None for any other.

    Some of Ray's errors hold what happened in a worker as the text of its traceback, with Ray's own advice below: then the
    last exception of it is made anew from its message.
    """
    if isinstance(error, kinds):
        return error
    found = _EXCEPTION_LINE.findall(str(error))
    if not found:
        return None
    name, message = found[-1]
    kind = pydoc.locate(name)
    return kind(message) if isinstance(kind, type) and issubclass(kind, kinds) else None


def reason(error: object) -> str:
    """Why a worker failed, in one line."""
    text = str(error)
    if "worker process has died" in text or ("node" in text and "died" in text):
        # Not "OOM killer", which Ray names among the common causes of any such end.
        if "low on memory" in text:
            return "Ray ended its process because the node ran low on memory"
        return "its process is gone (a signal, the kernel out of memory, or a lost node)"
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else repr(error)

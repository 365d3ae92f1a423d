"""The token that clients show: made once, in a file that only its owner can read, compared in constant time."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from ecgmoe.filesystem import StorageError
from ecgmoe.home import home
from ecgmoe.pipeline.nodes import require_here

MIN_CHARACTERS = 16


def own_token_file() -> Path:
    """The file of a server that was given none; it is made where it is not there.

    Raises:
        StorageError: it cannot be written.
    """
    path = home() / "serve.token"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror}): set ECGMOE_HOME, or give --token-file") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    return path


def read_token(path: str) -> str:
    """The token in a file.

    Raises:
        StorageError: the file is not there on this node.
        ValueError: anybody on the machine can read it, or it holds no token.
    """
    require_here(path)
    if Path(path).stat().st_mode & stat.S_IROTH:
        raise ValueError(f"{path} can be read by everybody: chmod 600 it (a secret of Kubernetes: defaultMode 0440)")
    token = Path(path).read_text(errors="replace").strip()
    if len(token) < MIN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{path} holds no token: at least {MIN_CHARACTERS} ASCII characters without blanks are needed")
    return token


def shows(authorization: str | None, token: str) -> bool:
    """Whether a header "Authorization: Bearer TOKEN" shows the token."""
    scheme, _, shown = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token.encode())

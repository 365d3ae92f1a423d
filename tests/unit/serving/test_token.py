"""The token's file: made once, for its owner alone, refused where everybody can read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ecgmoe.filesystem import StorageError
from ecgmoe.serving.token import own_token_file, read_token, shows


def test_a_token_is_made_once_for_its_owner_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ECGMOE_HOME", str(tmp_path / "new"))
    before = os.umask(0)
    try:
        path = own_token_file()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = read_token(str(path))
    assert len(token) >= 32
    assert own_token_file() == path
    assert read_token(str(path)) == token


def test_files_that_hold_no_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(StorageError, match="is not there"):
        read_token(str(path))
    for content in ("", "short", "two words of more than sixteen", "é" * 20):
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(ValueError, match="holds no token"):
            read_token(str(path))
    path.write_text("x" * 20)
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_token(str(path))


def test_what_shows_a_token() -> None:
    token = "x" * 20
    assert shows(f"Bearer {token}", token)
    assert shows(f"bearer  {token} ", token)
    for other in (None, "", token, "Bearer", f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", "Bearer é"):
        assert not shows(other, token)

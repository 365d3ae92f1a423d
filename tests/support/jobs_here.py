"""Call the entry points in this process, on the Ray that it has joined: what a user sees, without the seconds of a start."""

from __future__ import annotations

import importlib.util
import io
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from ecgmoe.cli import run_job
from jobs import REPOSITORY


def job_here(name: str, *arguments: str, expect: int = 0) -> str:
    """Run jobs/<name>.py; returns what it printed and checks its exit code. A fault of the program is raised."""
    path = REPOSITORY / "jobs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"job_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    out, code = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True), 0
    # pytest keeps what is logged until the test ends, with the traceback of a failed stage, which holds its actors.
    without_handlers = mock.patch.object(logging.getLogger(), "handlers", [])
    argv = mock.patch.object(sys, "argv", [str(path), *arguments])
    with argv, without_handlers, redirect_stdout(out), redirect_stderr(out):
        try:
            run_job(module.main)
        except SystemExit as end:
            code = int(end.code or 0)
    out.seek(0)
    text = out.read()
    assert code == expect, text
    return text


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return text.strip().splitlines()[-1]

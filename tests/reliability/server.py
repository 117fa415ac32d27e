"""Runs of the program without the seconds that its imports take: ``python -m tests.reliability.server`` forks them.

A line of input is a JSON list of arguments; the answer is the process's number. `Server` is the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.reliability.programs import CLEAN, ROOT


class Run:
    """One run: a process of its own, whose output goes to a file."""

    def __init__(self, server: subprocess.Popen[str], log: Path, arguments: list[str]) -> None:
        assert server.stdin is not None and server.stdout is not None
        self.log = log
        print(json.dumps([str(log), *arguments]), file=server.stdin, flush=True)
        self.pid = int(server.stdout.readline())

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal, once the run has ended."""
        status = Path(f"{self.log}.status")
        return int(status.read_text()) if status.exists() else None


@contextmanager
def serving() -> Iterator[subprocess.Popen[str]]:
    """Start a server, and end it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.server"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=ROOT, env=CLEAN,
    ) as server:  # fmt: skip
        yield server
        assert server.stdin is not None
        server.stdin.close()


def serve() -> None:
    """Fork a watcher, which forks the run, waits for it and notes its status."""
    from sign_zs3.cli import main
    from sign_zs3.commands import training  # noqa: F401 (what takes the seconds)

    for line in sys.stdin:
        log, *arguments = json.loads(line)
        told, tell = os.pipe()
        if (watcher := os.fork()) == 0:
            if (pid := os.fork()) == 0:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(output, 1)
                os.dup2(output, 2)
                status = 1
                try:
                    sys.argv = ["sign-zs3", *arguments]
                    status = main(arguments)
                except SystemExit as stop:
                    status = int(stop.code or 0)
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            os.write(tell, str(pid).encode())
            os.close(tell)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            Path(f"{log}.part").write_text(str(status))
            Path(f"{log}.part").replace(f"{log}.status")
            os._exit(0)
        os.close(tell)
        print(os.read(told, 20).decode(), flush=True)
        os.close(told)
        del watcher


if __name__ == "__main__":
    serve()

"""How often a file is opened, by whatever code: Linux is asked (inotify), since torch may open files in C++."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ACCESS, CLOSE, OPEN = 0x01, 0x08 | 0x10, 0x20
"""Of <sys/inotify.h>. Equal events in a row come as one, so what lies between two openings is asked for too."""
HEAD = struct.Struct("iIII")
LINUX = sys.platform.startswith("linux")


class Opens:
    """What `counted` has seen.

    Attributes:
        count: Openings of the file, complete once the block is left.
    """

    count = 0


@contextmanager
def counted(path: Path) -> Iterator[Opens]:
    """Count how often a file is opened in the block, by this process or any other."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    ends = threading.Event()
    found = Opens()

    def read() -> None:
        events = os.read(watch, 1 << 16)
        while events:
            _, mask, _, length = HEAD.unpack_from(events)
            found.count += bool(mask & OPEN)
            events = events[HEAD.size + length :]

    def read_at_once() -> None:
        # so that events do not wait beside equal ones
        while not ends.is_set():
            read()

    reader = threading.Thread(target=read_at_once)
    try:
        if watch < 0 or libc.inotify_add_watch(watch, os.fsencode(path), ACCESS | CLOSE | OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        reader.start()
        try:
            yield found
        finally:
            ends.set()
            path.open("rb").close()  # wakes the reader
            reader.join()
            os.set_blocking(watch, False)
            with suppress(BlockingIOError):
                while True:  # what came after the reader's last look
                    read()
            found.count -= 1
    finally:
        os.close(watch)

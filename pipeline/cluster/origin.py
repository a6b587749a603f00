"""Where a record in the store was written, and whether a process that it names still lives.

Holders and submissions name processes by number. A number means something on the machine, in the container and since
the start of the machine that it was written on: so records hold all three (`origin`), and `process_alive` compares.
"""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path

import psutil

from pipeline.records import Origin, Written


@cache
def user() -> str:
    """Return the name of this process's user."""
    return psutil.Process().username()


def place() -> dict[str, str]:
    """Return what tells processes apart that may bear one number: the host, and the container in it."""
    namespace = Path("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "namespace": str(namespace.readlink()) if namespace.is_symlink() else ""}


def is_of_this_machine(record: Origin) -> bool:
    """Tell whether the process numbers of a record are this machine's: of its host, and of its container."""
    here = place()
    namespace = record.get("namespace", here["namespace"])  # older records have none
    return (record.get("host"), namespace) == (here["host"], here["namespace"])


def origin() -> Origin:
    """Return what a record says of where it was written, for `is_of_this_machine` and `process_alive`.

    It goes with the record's `clock`, taken at the same moment: a clock that is put right moves the boot's time too.
    """
    here = place()
    boot, boot_id = psutil.boot_time(), _boot_id()
    return {"host": here["host"], "namespace": here["namespace"], "boot": boot, "boot_id": boot_id}


def _boot_id() -> str:
    """Return what tells one run of this machine from the next; nothing where its system does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def is_before_boot(record: Origin) -> bool:
    """Tell whether a record of this machine was written before it last started."""
    return bool(record.get("boot_id")) and record["boot_id"] != _boot_id()


def process_alive(pid: int, record: Written, *, later_s: float = 1.0) -> bool:
    """Tell whether a process of this host lives that was there when a record was written, or `later_s` after that.

    Times are taken from the boot, as the clock then was: where it is put right, the boot's moves too. What was written
    before the machine last started is dead.
    """
    if is_before_boot(record):
        return False
    try:
        process, boot = psutil.Process(pid), psutil.boot_time()
        written = clock(record) - record.get("boot", boot)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() - boot <= written + later_s
    except psutil.NoSuchProcess:
        return False


def clock(record: Written) -> float:
    """Return when a record was written, by the clock of its host."""
    return record.get("clock", record["time"])  # absent in what older versions wrote

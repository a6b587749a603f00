"""Start, kill and find the processes of a test cluster."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # a daemon lies outside the PATH of most users
CARELESSLY = ["eatmydata"]  # what nobody keeps need never reach the disk, and waiting for it took most of the time
MARK = "TEST_CLUSTER_DAEMON"  # in the environment of every daemon, and its children: <folder>:<name>


def start(folder: Path, name: str) -> None:
    """Start a daemon: munged, mariadbd, slurmdbd, slurmctld, or slurmd under the name of its node. Does not wait."""
    with (folder / "log" / f"{name}.out").open("ab") as log:
        process = subprocess.Popen(
            _command(folder, name),
            env=_environment(folder, name),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "run" / f"{name}.pid").write_text(str(process.pid))


def stop(folder: Path, name: str) -> None:
    """Stop a daemon with SIGTERM, as its service does, and wait for its end. What runs on a node runs on."""
    process = int((folder / "run" / f"{name}.pid").read_text())
    if process in remnants(folder, name):
        os.kill(process, signal.SIGTERM)
    while process in remnants(folder, name):
        time.sleep(0.05)


def kill(folder: Path, name: str | None = None) -> None:
    """Kill a daemon with SIGKILL, as a crash does; a node with all that runs on it; without a name, the cluster."""
    while left := remnants(folder, name):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def remnants(folder: Path, name: str | None = None) -> list[int]:
    """Ids of all living processes of the cluster or of one daemon.

    To the cluster belong its daemons, job steps and what jobs started, double forks included; to a node, those on it.
    """
    daemon = f"{MARK}={folder}:{name or ''}"
    job = {f"SLURM_CONF={folder}/slurm.conf", *([f"SLURMD_NODENAME={name}"] if name else [])}
    spared = _ancestors()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in spared:
            continue
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        in_job = job.issubset(environment) and any(each.startswith("SLURM_JOB_ID=") for each in environment)
        if in_job or any(each == daemon or (name is None and each.startswith(daemon)) for each in environment):
            found.append(int(entry.name))
    return found


def _command(folder: Path, name: str) -> list[str]:
    run = folder / "run"
    if name == "munged":
        files = {
            "key-file": folder / "munge.key",
            "seed-file": folder / "munge.seed",
            "log-file": folder / "log/munge.log",
        }
        sockets = {"socket": run / "munge.socket", "pid-file": run / "munge.pid"}
        return ["munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in (files | sockets).items())]
    if name == "mariadbd":
        place = [f"--datadir={folder}/database", f"--socket={database_socket(folder)}", f"--pid-file={run}/mariadb.pid"]
        small = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--skip-performance-schema"]
        user = f"--user={pwd.getpwuid(os.getuid()).pw_name}"
        return [*CARELESSLY, "mariadbd", "--no-defaults", user, "--skip-networking", *place, *small]
    if name == "slurmctld":
        return [*CARELESSLY, name, "-D"]
    if name == "slurmdbd":
        return [name, "-D"]
    return ["slurmd", "-D", "-N", name]


def database_socket(folder: Path) -> Path:
    """Where MariaDB listens; it has no port."""
    return folder / "run" / "mariadb.socket"


def _environment(folder: Path, name: str) -> dict[str, str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
    # slurmdbd cannot be told the database's socket but through MariaDB's own variable.
    socket = str(database_socket(folder))
    ours = {"SLURM_CONF": f"{folder}/slurm.conf", "MYSQL_UNIX_PORT": socket, MARK: f"{folder}:{name}"}
    return outer | ours | {"PATH": SEARCH_PATH}


def _ancestors() -> set[int]:
    process, found = os.getpid(), set[int]()
    while process > 0:
        found.add(process)
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return found

"""What the test cluster consists of, and the configuration files of its daemons."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemons import SEARCH_PATH

SENTINEL = "test_cluster"  # an empty file; `down` removes no folder without it
LONGEST_FOLDER = 80  # a Unix socket's path ends at 107 bytes

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}({address})
{listening}
MailProg=/bin/true
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={slurmctld_port}
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s).
AuthInfo=socket={folder}/run/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.slurm.pid
SlurmdPidFile={folder}/run/%n.slurm.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log

# A container has no cgroups to give away: processes are tracked by parenthood, and nothing limits memory.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PropagateResourceLimits=NONE
MpiDefault=none

# Nodes may promise more CPUs and memory than the host has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
ReturnToService=2

# Tests wait for none of the delays that spare a busy controller.
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2,bf_continue
KillWait=5
SlurmdTimeout=10
MessageTimeout=30
MinJobAge=10
MaxArraySize={max_array_size}
MaxJobCount=20000

{accounting}
{preemption}
{gres}
{nodes}
{partitions}
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=localhost
DbdAddr={address}
{listening}
DbdPort={slurmdbd_port}
SlurmUser={user}
PidFile={folder}/run/slurmdbd.slurm.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A test cluster: its scratch folder, its size and its variant.

    `gpus` is per node, and counted only: no device stands behind it. `preempt` is a PreemptMode, or None for a single
    partition. `extra` are lines put at the end of slurm.conf.
    """

    folder: Path
    num_nodes: int = 3
    cpus: int = 4
    accounting: bool = True
    gpus: int = 0
    preempt: str | None = None
    max_array_size: int = 1001
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise ValueError(f"folder {self.folder}: at most {LONGEST_FOLDER} characters, since sockets lie in it")
        if self.num_nodes < 1 or self.cpus < 1:
            raise ValueError(f"{self.num_nodes} nodes of {self.cpus} CPUs: both must be at least 1")

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes: n0, n1, …"""
        return [f"n{i}" for i in range(self.num_nodes)]

    @property
    def daemons(self) -> list[str]:
        """Names of the daemons, in the order in which they start."""
        database = ["mariadbd", "slurmdbd"] if self.accounting else []
        return ["munged", *database, "slurmctld", *self.nodes]


def write(settings: Settings) -> None:
    """Lay out the folder of a cluster: munge's key, slurm.conf and its like, and the folders that these name."""
    folder = settings.folder
    for name in ("run", "log", "state", *(f"spool/{node}" for node in settings.nodes)):
        (folder / name).mkdir(parents=True, mode=0o700)
    (folder / SENTINEL).touch()
    slurmctld_port, slurmdbd_port, *node_ports = free_ports(2 + settings.num_nodes)
    names = {"folder": str(folder), "user": pwd.getpwuid(os.getuid()).pw_name, **_place()}
    _write_private(folder / "munge.key", os.urandom(128))
    slurm_conf = SLURM_CONF.format(
        **names,
        slurmctld_port=slurmctld_port,
        max_array_size=settings.max_array_size,
        accounting=_accounting(settings, slurmdbd_port, address=names["address"]),
        preemption=_preemption(settings),
        gres="GresTypes=gpu" if settings.gpus else "",
        nodes=_nodes(settings, names, ports=node_ports),
        partitions=_partitions(settings),
    )
    _write_private(folder / "slurm.conf", (slurm_conf + "\n".join(settings.extra) + "\n").encode())
    _write_private(folder / "cgroup.conf", _cgroup_conf())
    if settings.gpus:
        # A GPU without a file is not counted by slurmd (22.05), so each has an empty one.
        for gpu in range(settings.gpus):
            _write_private(folder / f"gpu{gpu}", b"")
        files = f"{folder}/gpu[0-{settings.gpus - 1}]"
        _write_private(folder / "gres.conf", f"AutoDetect=off\nName=gpu File={files}\n".encode())
    if settings.accounting:
        _write_private(folder / "slurmdbd.conf", SLURMDBD_CONF.format(**names, slurmdbd_port=slurmdbd_port).encode())


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface on which nothing listens now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _cgroup_conf() -> bytes:
    """SLURM, which needs no cgroups here, looks for them nevertheless; from 23.02 on it can be told not to."""
    version = subprocess.run(["slurmd", "-V"], check=True, capture_output=True, text=True, env={"PATH": SEARCH_PATH})
    major, minor = version.stdout.split()[1].split(".")[:2]
    return b"CgroupPlugin=disabled\n" if (int(major), int(minor)) >= (23, 2) else b""


def _place() -> dict[str, str]:
    """This host: its name, an address of the loopback interface, and the parameter that binds daemons to it alone.

    SLURM can bind only to the address that the host's name has. Where this is not a loopback address the daemons listen
    on all interfaces, and munge's key alone keeps others out.
    """
    host = socket.gethostname()
    address = socket.gethostbyname(host)
    if not address.startswith("127."):
        return {"host": host.split(".")[0], "address": "127.0.0.1", "listening": ""}
    listening = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"
    return {"host": host.split(".")[0], "address": address, "listening": listening}


def _accounting(settings: Settings, port: int, *, address: str) -> str:
    if not settings.accounting:
        return "AccountingStorageType=accounting_storage/none"
    tres = "\nAccountingStorageTRES=gres/gpu" if settings.gpus else ""
    return (
        "AccountingStorageType=accounting_storage/slurmdbd\n"
        f"AccountingStorageHost={address}\nAccountingStoragePort={port}\n"
        # For slurmdbd, the word Pass stands for munge's socket.
        f"AccountingStoragePass={settings.folder}/run/munge.socket{tres}"
    )


def _preemption(settings: Settings) -> str:
    if settings.preempt is None:
        return ""
    return f"PreemptType=preempt/partition_prio\nPreemptMode={settings.preempt}"


def _nodes(settings: Settings, names: Mapping[str, str], *, ports: list[int]) -> str:
    here = f"NodeHostname={names['host']} NodeAddr={names['address']}"
    gres = f" Gres=gpu:{settings.gpus}" if settings.gpus else ""
    return "\n".join(
        f"NodeName={node} {here} Port={port} CPUs={settings.cpus} RealMemory=512000{gres}"
        for node, port in zip(settings.nodes, ports, strict=True)
    )


def _partitions(settings: Settings) -> str:
    both = "PartitionName=DEFAULT Nodes=ALL DefaultTime=60 MaxTime=INFINITE State=UP"
    main = f"{both}\nPartitionName=main Default=YES PriorityTier=1"
    if settings.preempt is None:
        return main
    return f"{main}\nPartitionName=urgent Default=NO PriorityTier=10 PreemptMode=OFF"


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)

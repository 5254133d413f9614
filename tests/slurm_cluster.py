"""A SLURM cluster of two nodes on this machine, in a folder of its own. It needs Debian's slurmctld, slurmd,
slurm-client and munge, and root.

    python tests/slurm_cluster.py squeue --long
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where Debian has the daemons

# No plugin that asks for a kernel's control groups, a database or a GPU; and short waits in place of SLURM's minutes.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=0,sched_min_interval=0,bf_interval=2
ReturnToService=2
KillWait=5
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8
NodeName={host}-2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "a SLURM cluster is made by root, on Linux"
    try:
        socket.gethostbyname(host_name())
    except OSError:
        return f"the machine's name, {host_name()}, has no address"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge" if absent else ""


def host_name() -> str:
    return socket.gethostname().partition(".")[0]


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Yields environment variables by which SLURM's commands find the cluster. At the end nothing of it is left.

    Raises:
        RuntimeError: the cluster does not start; with its logs.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))  # a socket: short
        variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        environment = os.environ | variables
        host = host_name()
        configure(folder, host)

        def start(*words: str) -> None:
            with (folder / f"{words[0]}.out").open("ab") as out:
                process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            stack.callback(stop, process)

        # No daemon leaves the foreground, so that each is a child of this process and ends with it.
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        start("munged", "--foreground", "--force", *(f"--{flag}={folder}/munge.{end}" for flag, end in files.items()))
        wait(folder, environment, lambda: (folder / "munge.socket").exists())
        start("slurmctld", "-D")
        for name in (host, f"{host}-2"):
            start("slurmd", "-D", "-N", name)
        wait(folder, environment, lambda: said(environment, "sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2)
        stack.callback(end_jobs, environment)
        yield variables


def configure(folder: Path, host: str) -> None:
    """Writes slurm.conf and munge's key."""
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, ports=free_ports(3)))
    (folder / "state").mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def said(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True).stdout


def wait(folder: Path, environment: dict[str, str], ready: Callable[[], bool], seconds: float = 30) -> None:
    """Raises RuntimeError, with the logs, if the cluster is not `ready` in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            logs = [*folder.glob("*.log"), *folder.glob("*.out")]
            raise RuntimeError("\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs))
        time.sleep(0.2)


def end_jobs(environment: dict[str, str]) -> None:
    """Kills all jobs and waits until their processes are gone."""
    deadline = time.monotonic() + 30
    while (jobs := said(environment, "squeue", "-h", "-o", "%A").split()) and time.monotonic() < deadline:
        subprocess.run(["scancel", "--signal=KILL", "--full", *jobs], env=environment, capture_output=True)
        subprocess.run(["scancel", *jobs], env=environment, capture_output=True)
        time.sleep(0.5)


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what is run on the cluster; then it is taken down")
    args = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    with cluster() as variables:
        sys.exit(subprocess.run(args.command, env=os.environ | variables).returncode)

"""What processes use, from /proc: processor time and memory of one process, or of it and all that it has started."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """A process and all that it has started and that live, itself first."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = _fields(path)
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, []))
    return found


def named(pids: Iterable[int], name: str) -> list[int]:
    """Those that call themselves so."""
    return [pid for pid in pids if (path := Path(f"/proc/{pid}/comm")).exists() and path.read_text().strip() == name]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time, user and system, that live processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = _fields(Path(f"/proc/{pid}/stat"))
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def memory_mb(pids: Iterable[int]) -> float:
    """What the processes have written or share with each other, counted once (of /proc's Pss: Pss_Anon and Pss_Shmem).

    Pages of libraries are left out: their share grows by itself whenever another program that has them open ends.
    """
    kilobytes = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return kilobytes / 1024


def pin(pid: int, cpus: set[int]) -> None:
    """Bind all threads of a process to processors; later threads inherit it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cpus)


def _fields(path: Path) -> list[str]:
    """Fields of a `stat` file from the state on, which follows a name that may hold anything."""
    return path.read_text().rpartition(")")[2].split()

"""Two "hosts" on one machine: network namespaces, joined by a virtual cable. Not a test file; needs root and `ip`."""

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A network of its own, with one interface besides the loopback."""

    name: str
    interface: str
    address: str

    def start(self, command, **environment):
        """A process on this host, with its output as text in a pipe."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            env=os.environ | {"GLOO_SOCKET_IFNAME": self.interface} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self):
        """End all of its processes at once; its network says so to others, as that of a machine that lives does."""
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def unplug(self):
        """Take its cable out: others hear nothing of it any more."""
        _ip("-n", self.name, "link", "set", self.interface, "down")


def why_not():
    """Why there can be no such hosts here, or None."""
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian: apt-get install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        _ip("netns", "add", f"knet-try-{os.getpid()}")
        _ip("netns", "del", f"knet-try-{os.getpid()}")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return None


@contextmanager
def two_hosts():
    """Both, until the end of the context; then all that runs on them is killed."""
    hosts = [Host(f"knet-{side}-{os.getpid()}", f"veth-{side}", f"10.111.0.{n}") for n, side in ((1, "a"), (2, "b"))]
    first, second = hosts
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
        peer = ("peer", "name", second.interface, "netns", second.name)
        _ip("link", "add", first.interface, "netns", first.name, "type", "veth", *peer)
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            for interface in ("lo", host.interface):
                _ip("-n", host.name, "link", "set", interface, "up")
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                host.kill()
                _ip("netns", "del", host.name)


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout

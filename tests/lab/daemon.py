"""The daemon of a host as an admin reaches it: `busctl call` on its system bus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.lab.host import Host, wait_until

NAME, ROOT = "org.kvmigd1", "/org/kvmigd1"
MANAGER, HOST, JOB, MIGRATION, EVACUATION, PEER = (
    f"{NAME}.{part}" for part in ("Manager", "Host", "Job", "Migration", "Evacuation", "Peer")
)


class CallFailed(Exception):
    """The daemon, or the bus, answered with an error; the text is what `busctl` printed of it."""


@dataclass(frozen=True)
class Finding:
    """One finding of Check."""

    check: str
    severity: str
    summary: str
    details: dict[str, str]


def call(host: Host, path: str, interface: str, member: str, *argv: str, user: str = "", timeout: float = 120) -> Any:
    """Call a method; returns the list of what it answered. Raises CallFailed."""
    words = ["busctl", "--json=short", f"--timeout={timeout:g}", "call", NAME, path, interface, member, *argv]
    if user:
        words = ["runuser", "-u", user, "--", *words]
    done = host.run(*words, check=False, timeout=timeout + 10)
    if done.returncode:
        raise CallFailed(done.stderr.strip())
    return json.loads(done.stdout)["data"] if done.stdout.strip() else []


def properties(host: Host, path: str, interface: str) -> dict[str, Any]:
    """All properties of an interface."""
    (answer,) = call(host, path, "org.freedesktop.DBus.Properties", "GetAll", "s", interface)
    return {name: value["data"] for name, value in answer.items()}


def describe(host: Host, subject: str) -> dict[str, Any]:
    """What the daemon of a host knows of a subject of its picture."""
    _generation, text = call(host, ROOT, HOST, "Describe", "sa{sv}", subject, "0")
    found: dict[str, Any] = json.loads(text)
    return found


def things(host: Host, subject: str, field: str) -> list[dict[str, Any]]:
    """The list of one field of a subject."""
    return list(describe(host, subject)[field])


def _options(options: dict[str, tuple[str, str]]) -> list[str]:
    words = [str(len(options))]
    for key, (signature, value) in options.items():
        words += [key, signature, value]
    return words


def check(host: Host, guest: str, peer: str = "", **options: tuple[str, str]) -> tuple[str, list[Finding]]:
    """Check: the verdict and the findings. An option is a pair of D-Bus signature and value."""
    verdict, findings = call(host, ROOT, MANAGER, "Check", "ssa{sv}", guest, peer, *_options(options))
    return verdict, [
        Finding(one[0], one[1], one[2], {key: value["data"] for key, value in one[3].items()}) for one in findings
    ]


def blocking(host: Host, guest: str, peer: str = "") -> dict[str, Finding]:
    """The findings that stand in a guest's way, by the check's id."""
    _verdict, findings = check(host, guest, peer)
    return {finding.check: finding for finding in findings if finding.severity != "warn"}


def unknown(host: Host, guest: str, peer: str) -> str:
    """Why Check cannot know whether a guest could go to a peer: what was found instead of an answer."""
    verdict, findings = check(host, guest, peer)
    if verdict != "unknown":
        raise AssertionError(f"The verdict on {guest} is {verdict}, for {[finding.check for finding in findings]}.")
    return " ".join(str(finding.details["found"]) for finding in findings if finding.severity == "unknown")


def migrate(host: Host, guest: str, peer: str = "", **options: tuple[str, str]) -> str:
    """Migrate: the job's path."""
    (path,) = call(host, ROOT, MANAGER, "Migrate", "ssa{sv}", guest, peer, *_options(options))
    return str(path)


def evacuate(host: Host, **options: tuple[str, str]) -> str:
    """Evacuate: the job's path."""
    (path,) = call(host, ROOT, MANAGER, "Evacuate", "a{sv}", *_options(options))
    return str(path)


def wait(host: Host, job: str, *, timeout: float = 120) -> str:
    """Wait for a job's end: how it ended."""
    (result,) = call(host, job, JOB, "Wait", timeout=timeout)
    return str(result)


def moved(host: Host, guest: str, peer: str = "") -> dict[str, Any]:
    """Migrate, wait, and return the job's properties."""
    job = migrate(host, guest, peer)
    wait(host, job)
    return properties(host, job, JOB)


def peer_state(host: Host, peer: str) -> str:
    """What a host knows of its connection to a peer."""
    return str(properties(host, f"{ROOT}/peer/{peer}", PEER)["State"])


def wait_connected(*hosts: Host) -> None:
    """Wait until the hosts' daemons are connected to each other."""
    for host in hosts:
        for other in hosts:
            if other is not host:
                wait_until(f"{host.name} is connected to {other.name}", lambda h=host, o=other: _connected(h, o))


def _connected(host: Host, other: Host) -> bool:
    try:
        return peer_state(host, other.name) == "connected"
    except CallFailed:
        return False


def restart(host: Host) -> None:
    """Restart the daemon; tests do that more often than systemd takes for healthy (StartLimitBurst=)."""
    host.sh("systemctl reset-failed kvmigd.service; systemctl restart kvmigd.service")


def wait_ready(host: Host) -> None:
    """Wait until the daemon has libvirt."""
    wait_until(f"kvmigd on {host.name} is ready", lambda: state(host) in ("ready", "maintenance"))


def state(host: Host) -> str:
    """The state that the daemon of a host tells; empty while it does not answer."""
    try:
        return str(properties(host, ROOT, MANAGER)["State"])
    except CallFailed:
        return ""

"""The daemon of a host as an admin reaches it: `busctl call` on its system bus."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.lab.host import Host, wait_for

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


def obstacle(
    host: Host, guest: str, peer: str, check: str, says: Callable[[Finding], object] = lambda _finding: True
) -> Finding:
    """Wait until a check stands in a guest's way, and says so, and return its finding.

    What has happened to a host is known to its daemon and to its peers a little later.
    """
    found = wait_for(
        f"{check} stands in the way of {guest}",
        lambda: blocking(host, guest, peer),
        lambda found: check in found and says(found[check]),
    )
    return found[check]


def wait_free(host: Host, guest: str, peer: str) -> None:
    """Wait until nothing stands in a guest's way."""
    wait_for(f"the way of {guest} to {peer} is free", lambda: blocking(host, guest, peer), lambda found: not found)


def wait_checked(host: Host, guest: str, peer: str, verdict: str, *checks: str, **options: tuple[str, str]) -> None:
    """Wait until Check says that, for exactly these checks."""
    wait_for(
        f"{guest} is {verdict} for {checks}",
        lambda: check(host, guest, peer, **options),
        lambda told: (told[0], [finding.check for finding in told[1]]) == (verdict, list(checks)),
    )


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


def peer(host: Host, name: str) -> dict[str, Any]:
    """What a host knows of a peer; empty while it does not answer."""
    try:
        return properties(host, f"{ROOT}/peer/{name}", PEER)
    except CallFailed:
        return {}


def wait_peer_state(host: Host, name: str, state: str) -> None:
    """Wait until a host says that of its connection to a peer."""
    wait_for(f"{name} is {state} for {host.name}", lambda: peer(host, name), lambda known: known.get("State") == state)


def wait_connected(*hosts: Host) -> None:
    """Wait until the hosts' daemons are connected to each other."""
    for host in hosts:
        for other in hosts:
            if other is not host:
                wait_peer_state(host, other.name, "connected")


def wait_in_order(*hosts: Host) -> None:
    """Wait until the daemons have libvirt, know all of their hosts, and take guests from each other."""
    for host in hosts:
        wait_for(f"kvmigd on {host.name} is ready", lambda h=host: state(h), lambda found: found == "ready")
        wait_for(f"all of {host.name} is known", lambda h=host: not_known(h), lambda found: found == {})
    wait_connected(*hosts)
    for host in hosts:
        for other in hosts:
            if other is not host:
                wait_for(
                    f"{host.name} has heard that {other.name} takes guests",
                    lambda h=host, o=other: peer(h, o.name),
                    lambda known: known.get("Accepting"),
                )


def not_known(host: Host) -> dict[str, Any] | None:
    """The subjects that a daemon does not know of its host, and why; None while it does not answer."""
    words = ("busctl", "--json=short", "get-property", NAME, ROOT, HOST, "Unknown")
    done = host.run(*words, check=False)
    return dict(json.loads(done.stdout)["data"]) if done.returncode == 0 else None


def restart(host: Host) -> None:
    """Restart the daemon; tests do that more often than systemd takes for healthy (StartLimitBurst=)."""
    host.sh("systemctl reset-failed kvmigd.service; systemctl restart kvmigd.service")


def wait_ready(host: Host) -> None:
    """Wait until the daemon has libvirt."""
    wait_for(f"kvmigd on {host.name} is ready", lambda: state(host), lambda found: found in ("ready", "maintenance"))


def state(host: Host) -> str:
    """The state that the daemon of a host tells; empty while it does not answer."""
    try:
        return str(properties(host, ROOT, MANAGER)["State"])
    except CallFailed:
        return ""

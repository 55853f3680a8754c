"""kvmigctl pki: make a CA, issue certificates for hosts, install them where libvirt, QEMU and kvmigd look."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kvmigd.cli.failure import finish
from kvmigd.cli.output import print_table, say
from kvmigd.errors import CertificateInvalid, Exit

DIRECTORY = Path("/etc/kvmigd/pki")

_PATH = click.Path(path_type=Path)
_directory = click.option(
    "--directory", type=_PATH, default=DIRECTORY, show_default=True, help="Where the CA is kept, key and all."
)


@click.group()
def pki() -> None:
    """Certificates for libvirt, QEMU's migration streams and kvmigd: one CA, one bundle a host.

    Make the CA on one machine (init), issue a bundle for each host (issue), copy each bundle to its host in a safe
    way, and install it there (install). Certificates that libvirt has already serve as they are (show).
    """


@pki.command()
@_directory
def init(directory: Path) -> None:
    """Make the CA."""
    finish(_init(directory))


async def _init(directory: Path) -> int:
    from kvmigd.pki import CA_CERTIFICATE, CA_KEY, Authority, free_for_new_ca

    free_for_new_ca(directory)
    authority = Authority.create()
    authority.save(directory)
    say(f"Made a CA, valid until {authority.certificate.not_valid_after_utc:%Y-%m-%d}:")
    say(f"  {directory / CA_CERTIFICATE}")
    say(f"  {directory / CA_KEY}  (secret; whoever has it can become any host)")
    say("Next, for each host: kvmigctl pki issue NAME")
    return Exit.OK


@pki.command()
@click.argument("name")
@click.option("--address", "addresses", multiple=True, metavar="IP", help="An IP address of the host; may be repeated.")
@_directory
@click.option("--output", type=_PATH, help="The bundle to write.  [default: NAME.tar]")
@click.option("--days", type=click.IntRange(1, 3650), default=1095, show_default=True, help="How long it is valid.")
def issue(name: str, addresses: tuple[str, ...], directory: Path, output: Path | None, days: int) -> None:
    """Issue a certificate for the host NAME, which is what its peers and libvirt call it."""
    finish(_issue(name, addresses, directory=directory, output=output or Path(f"{name}.tar"), days=days))


async def _issue(name: str, addresses: tuple[str, ...], *, directory: Path, output: Path, days: int) -> int:
    from kvmigd.bundle import write_new
    from kvmigd.pki import Authority

    bundle = Authority.load(directory).issue(name, addresses=addresses, days=days)
    write_new(output, bundle.pack(), mode=0o600)
    say(f"Issued a certificate for {', '.join((name, *addresses))}: {output}")
    say(f"It holds the host's secret key. Copy it to {name} and, there: kvmigctl pki install {output.name}")
    return Exit.OK


@pki.command()
@click.argument("bundle", type=_PATH)
@click.option("--root", type=_PATH, default=Path("/"), show_default=True, help="Install into the system below this.")
@click.option("--force", is_flag=True, help="Replace certificates of another CA.")
def install(bundle: Path, root: Path, *, force: bool) -> None:
    """Install a host's BUNDLE where libvirt, QEMU and kvmigd look."""
    finish(_install(bundle, root, force=force))


async def _install(path: Path, root: Path, *, force: bool) -> int:
    from kvmigd.bundle import QEMU_GROUPS, Bundle, install

    bundle = Bundle.unpack(path)
    try:
        done = install(bundle, root, force=force)
    except OSError as error:
        raise CertificateInvalid(f"Cannot install below {root}: {error.strerror} ({error.filename}).") from error
    say("Installed:")
    for written in done.paths:
        say(f"  {written}")
    if done.group:
        say(f"QEMU's keys are readable for group {done.group}.")
    else:
        groups = " or ".join(QEMU_GROUPS)
        say(
            f"There is no group {groups} here: only root can read QEMU's keys. After libvirt is installed, repeat this."
        )
    say("Next:")
    for command in _next_commands(root):
        say(f"  {command}")
    say(f"The bundle holds a secret key and is no longer needed: rm {path}")
    return Exit.OK


def _next_commands(root: Path) -> list[str]:
    units = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
    modular = any(os.path.lexists(root / place / "sockets.target.wants/virtqemud.socket") for place in units)
    if modular:
        tls = ["systemctl enable --now virtproxyd-tls.socket"]
    else:  # systemd does not start a socket whose service runs already
        tls = ["systemctl stop libvirtd.service", "systemctl enable --now libvirtd-tls.socket"]
    return [*tls, "systemctl reload kvmigd.service"]


@pki.command()
@click.option("--config", type=_PATH, default=Path("/etc/kvmigd"), show_default=True, help="kvmigd's configuration.")
def show(config: Path) -> None:
    """Show this host's certificates and what is wrong with them."""
    finish(_show(config))


async def _show(directory: Path) -> int:
    from kvmigd.config import load
    from kvmigd.peer.certificates import certificate_facts

    config = load(directory)
    facts = certificate_facts(config.pki, name=config.name)
    print_table(
        ("FILE", "FOR", "NAMES", "VALID UNTIL", "STATE"),
        [
            (fact.path, fact.purpose, " ".join(fact.names), fact.not_after, "problem" if fact.problem else "good")
            for fact in facts
        ],
    )
    problems = [fact.problem for fact in facts if fact.problem]
    for problem in problems:
        say(problem, err=True)
    return Exit.FAILED if problems else Exit.OK

"""Mandatory access control: the same driver on both hosts. What the labels of a guest need is the guest's matter."""

from __future__ import annotations

from collections.abc import Iterator

from kvmigd.checks.guest import SECURITY_MODEL
from kvmigd.checks.rule import Scope, rule
from kvmigd.checks.view import Hosts, HostView
from kvmigd.model.finding import Finding, Severity


@rule(Scope.HOSTS, reads="system hypervisor", tells=(SECURITY_MODEL,))
def security_driver(hosts: Hosts) -> Iterator[Finding]:
    """Guests are confined by the same means on both hosts: what is labelled there may be forbidden here later."""
    here, there = _driver(hosts.source), _driver(hosts.destination)
    if here and there and here != there:
        yield SECURITY_MODEL.finding(
            f"Guests are confined by {_called(there)} on {hosts.there}, and by {_called(here)} on {hosts.here}.",
            host=hosts.there,
            subject="security driver",
            expected=f"{here}, as on {hosts.here}",
            found=there,
            remedy=f"On {hosts.there}: security_driver in /etc/libvirt/qemu.conf as on {hosts.here}, and "
            "systemctl restart libvirtd (or virtqemud)",
            severity=Severity.WARN,
        )


def _driver(host: HostView) -> str:
    """The driver of mandatory access control that libvirt uses, `none`, or empty where it is not known."""
    models = host.state.hypervisor.security_models
    for model in models:
        name = model.partition(":")[0]
        if name in ("selinux", "apparmor"):
            return name
    # libvirt that has said what it has, and neither of them, uses none even where the kernel has one.
    return "none" if models else host.state.system.security.partition("-")[0]


def _called(driver: str) -> str:
    return {"selinux": "SELinux", "apparmor": "AppArmor", "none": "nothing"}.get(driver, driver)

"""The hosts and what lies between them: libvirt on both, their names, the ports."""

from __future__ import annotations

from kvmigd.checks.failures.entry import HERE, entry

_PROXY = (
    "On {there}: systemctl enable --now virtproxyd-tls.socket (libvirtd-tls.socket where libvirtd is one daemon), and "
    "open TCP port 16514 in its firewall"
)
_OPEN = (
    "On {there}: firewall-cmd --permanent --add-port=49152-49215/tcp && firewall-cmd --reload, or the like in "
    "nftables; then kvmigctl check {guest}"
)
_NAMES = "On {here}: getent ahosts {address}; add it to DNS or to /etc/hosts"

HOSTS = (
    entry(
        "host.uuid",
        "Attempt to migrate guest to the same host",
        origin="libvirt src/qemu/qemu_migration_cookie.c",
        summary="Both hosts have the same host UUID, so libvirt on {there} took {here} for itself.",
        remedy='On {there}: set host_uuid = "…" (uuidgen makes one) in /etc/libvirt/libvirtd.conf (or virtqemud.conf) '
        "and restart it",
        subject="host UUID",
    ),
    entry(
        "host.name",
        "hostname on destination resolved to localhost",
        "migration_host must not be the address of the local machine: {address}",
        "migration_address must not be the address of the local machine: {address}",
        origin="libvirt src/qemu/qemu_migration.c, src/qemu/qemu_conf.c",
        summary="The name of {there} resolves to localhost on {there} itself.",
        remedy="On {there}: remove its name from the 127.x and ::1 lines of /etc/hosts, and migration_host from "
        "/etc/libvirt/qemu.conf",
        subject="{there}",
    ),
    entry(
        "host.resolve",
        "Unable to resolve address '{address}' service",
        "address resolution failed for {address:[^\n]{1,255}}:{port:[0-9a-z]{1,15}}: ",
        origin="libvirt src/rpc/virnetsocket.c, src/util/virsocketaddr.c; qemu util/qemu-sockets.c",
        summary="The name {address} does not resolve on {here}.",
        remedy=_NAMES,
        at=HERE,
        subject="{address}",
    ),
    entry(
        "host.address",
        "'migrate-incoming': {...}Cannot assign requested address",
        origin="qemu util/qemu-sockets.c",
        summary="QEMU on {there} was to listen on an address that {there} does not have.",
        remedy="On {there}: ip address; then set migration_address in /etc/libvirt/qemu.conf and the peer's address in "
        "kvmigd's configuration to one of them",
        subject="migration address",
    ),
    # libvirt's own ports before all others: the message is the same.
    entry(
        "hypervisor.remote",
        "unable to connect to server at '{address}:{port:16514|16509}': Connection refused",
        origin="libvirt src/rpc/virnetsocket.c",
        summary="libvirt on {there} does not listen on port {port}.",
        remedy=_PROXY,
        subject="TCP port {port}",
    ),
    entry(
        "hypervisor.remote",
        "unable to connect to server at '{address}:{port:16514|16509}': ",
        origin="libvirt src/rpc/virnetsocket.c",
        summary="Port {port} of libvirt on {there} does not answer: a firewall drops it, or there is no way to "
        "{there}.",
        remedy=_PROXY,
        subject="TCP port {port}",
    ),
    entry(
        "port.open",
        "unable to connect to server at '{address:[^'\n]{1,255}}:{port:[0-9]{1,5}}': Connection refused",
        "Failed to connect to '{address:[^'/\n]{1,255}}:{port:[0-9]{1,5}}': Connection refused",
        origin="libvirt src/rpc/virnetsocket.c; qemu util/qemu-sockets.c",
        summary="Port {port} on {there} refused the connection: a firewall rejects it, or QEMU there has ended "
        "already.",
        remedy=_OPEN,
        subject="TCP port {port}",
    ),
    entry(
        "port.open",
        "unable to connect to server at '{address:[^'\n]{1,255}}:{port:[0-9]{1,5}}': No route to host",
        "unable to connect to server at '{address:[^'\n]{1,255}}:{port:[0-9]{1,5}}': Network is unreachable",
        "Failed to connect to '{address:[^'/\n]{1,255}}:{port:[0-9]{1,5}}': No route to host",
        "Failed to connect to '{address:[^'/\n]{1,255}}:{port:[0-9]{1,5}}': Network is unreachable",
        origin="libvirt src/rpc/virnetsocket.c; qemu util/qemu-sockets.c",
        summary="{here} has no way to port {port} on {there}: no route, or a firewall that says so.",
        remedy="On {here}: ip route get {address}. " + _OPEN,
        subject="TCP port {port}",
    ),
    entry(
        "port.open",
        "unable to connect to server at '{address:[^'\n]{1,255}}:{port:[0-9]{1,5}}'",
        "Failed to connect to '{address:[^'/\n]{1,255}}:{port:[0-9]{1,5}}'",
        origin="libvirt src/rpc/virnetsocket.c; qemu util/qemu-sockets.c",
        summary="Port {port} on {there} does not answer: a firewall between the hosts drops it.",
        remedy=_OPEN,
        subject="TCP port {port}",
    ),
    entry(
        "port.free",
        "Unable to find an unused port in range '{range:migration|nbd}' ({ports:[0-9-]{1,11}})",
        origin="libvirt src/util/virportallocator.c",
        summary="All ports for migrations on {there} ({ports}) are taken.",
        remedy="On {there}: ss -tlnp; end what holds them, or raise migration_port_max in /etc/libvirt/qemu.conf and "
        "open the new ports",
        subject="TCP ports {ports}",
    ),
    entry(
        "guest.display",
        "Unable to find an unused port in range '{range}' ({ports:[0-9-]{1,11}})",
        "Failed to find an available port: Address already in use",
        origin="libvirt src/util/virportallocator.c; qemu util/qemu-sockets.c",
        summary="No port is free on {there} for the display of {guest}.",
        remedy="On {there}: ss -tlnp; on {here}: virsh dumpxml {guest} shows <graphics>: autoport='yes' finds "
        "another port",
        subject="display",
    ),
    entry(
        "guest.display",
        "-vnc {...}Cannot assign requested address",
        "-vnc {...}Address already in use",
        "-spice {...}Cannot assign requested address",
        "Failed to bind socket: Cannot assign requested address",
        origin="qemu util/qemu-sockets.c",
        summary="The display of {guest} is to listen on an address or port that is not to be had on {there}.",
        remedy="On {here}: virsh edit {guest}: <graphics autoport='yes' listen='0.0.0.0'>, or an address that both "
        "hosts have; it counts after the guest's next start",
        subject="display",
    ),
    entry(
        "port.free",
        "Failed to bind socket{...}Address already in use",
        "Failed to listen on socket: Address already in use",
        origin="qemu util/qemu-sockets.c",
        summary="The port on which QEMU was to listen on {there} is taken.",
        remedy="On {there}: ss -tlnp shows by what; end it, or set another range in /etc/libvirt/qemu.conf "
        "(migration_port_min, migration_port_max)",
        subject="migration port",
    ),
    entry(
        "hypervisor.alive",
        "Failed to connect socket to '{path}': ",
        origin="libvirt src/rpc/virnetsocket.c",
        summary="The libvirt daemon behind {path} is not running.",
        remedy="On {there}: systemctl start libvirtd (with modular libvirt: systemctl start virtqemud.socket "
        "virtnetworkd.socket virtstoraged.socket virtsecretd.socket virtnwfilterd.socket virtnodedevd.socket)",
        subject="{path}",
    ),
    entry(
        "hypervisor.remote",
        "Cannot recv data: {reason:[^\n]{0,300}?}Host key verification failed",
        "Cannot recv data: {reason:[^\n]{0,300}?}Permission denied",
        "End of file while reading data: {reason:[^\n]{0,300}?}Host key verification failed",
        "End of file while reading data: {reason:[^\n]{0,300}?}Permission denied",
        origin="libvirt src/rpc/virnetsocket.c",
        summary="ssh from {here} does not get in on {there}; libvirt on {here} runs it as root.",
        remedy="On {here}, as root: ssh root@{there} true; or use TLS: uri = qemu+tls://{there}/system",
        at=HERE,
        subject="ssh",
    ),
    entry(
        "hypervisor.remote",
        "authentication failed: {reason:no polkit agent[^\n]{0,200}|[^\n]{0,200}SASL[^\n]{0,200}|No worthy "
        "mechs[^\n]{0,100}}",
        "authentication unavailable: {reason}",
        "access denied: {reason}",
        origin="libvirt src/remote/remote_daemon_dispatch.c, src/rpc/virnetsaslcontext.c, src/util/viraccessmanager.c",
        summary="libvirt on {there} does not let {here} in: {reason}.",
        remedy='On {there}: auth_tls = "none" in /etc/libvirt/libvirtd.conf (virtproxyd.conf): certificates prove '
        "who calls; restart it",
        subject="libvirt",
    ),
    entry(
        "software.libvirt",
        "Destination libvirt does not support peer-to-peer migration protocol",
        "Unsupported migration cookie feature {feature}",
        "Unknown migration cookie feature {feature}",
        "offline migration is not supported by the destination host",
        origin="libvirt src/qemu/qemu_migration.c, qemu_migration_cookie.c",
        summary="libvirt on {there} is too old for this migration.",
        remedy="On {there}: update libvirt to the version of {here}: virsh version --daemon shows it",
        subject="libvirt",
    ),
    entry(
        "software.qemu",
        "Migration option '{feature}' is not supported by QEMU binary",
        origin="libvirt src/qemu/qemu_migration_params.c",
        summary="QEMU on one of the hosts is too old for this migration ({feature}).",
        remedy="On {here} and {there}: virsh version shows QEMU's; bring both to the newer one",
        subject="QEMU",
    ),
    entry(
        "hypervisor.hook",
        "Hook script execution failed: {reason}",
        origin="libvirt src/util/virhook.c",
        summary="libvirt's hook script refused the guest: {reason}.",
        remedy="On {there} (and {here}): /etc/libvirt/hooks/qemu; run it by hand: /etc/libvirt/hooks/qemu {guest} "
        "migrate begin - </dev/null",
        subject="/etc/libvirt/hooks/qemu",
    ),
)

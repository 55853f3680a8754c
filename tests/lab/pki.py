"""Certificates: by kvmigctl where kvmigd is installed, else a stand-in made with certtool, with the same files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.lab import network
from tests.lab.host import Host

_TEMPLATES = {
    "ca": 'cn = "lab"\nca\ncert_signing_key\nexpiration_days = 3650\n',
    # one pair a host, for both directions: a host is server and client of its peers
    "host": (
        'cn = "{name}"\ndns_name = "{name}"\nip_address = "{address}"\nexpiration_days = 3650\n'
        "tls_www_server\ntls_www_client\nencryption_key\nsigning_key\n"
    ),
}

_STAND_IN = """\
mkdir -p /etc/pki; cd /etc/pki
install -d CA libvirt/private qemu
install -m 644 /root/pki/ca.pem CA/cacert.pem
for side in server client; do
    install -m 644 "/root/pki/$1.pem" "libvirt/${side}cert.pem"
    install -m 600 "/root/pki/$1.key" "libvirt/private/${side}key.pem"
    install -m 644 "/root/pki/$1.pem" "qemu/$side-cert.pem"
    install -m 640 -g kvm "/root/pki/$1.key" "qemu/$side-key.pem"
done
install -m 644 /root/pki/ca.pem qemu/ca-cert.pem
"""


_VERB = "/usr/lib/kvmigd/site/kvmigd/cli/pki.py"


def install(hosts: Sequence[Host]) -> None:
    """Give every host the certificates of libvirt, QEMU and kvmigd."""
    (_issue if hosts[0].exists(_VERB) else _issue_stand_in)(hosts)


def _issue(hosts: Sequence[Host]) -> None:
    first = hosts[0]
    first.run("kvmigctl", "pki", "init", "--directory", "/root/pki")
    for host in hosts:
        bundle = f"/root/pki/{host.name}.bundle"
        issue = ("kvmigctl", "pki", "issue", host.name, "--directory", "/root/pki", "--address", host.address)
        first.run(*issue, "--output", bundle)
        _copy([bundle], first, host)
        host.run("kvmigctl", "pki", "install", bundle)


def _issue_stand_in(hosts: Sequence[Host]) -> None:
    first = hosts[0]
    first.sh("mkdir -p -m 700 /root/pki; cd /root/pki; certtool --generate-privkey --bits 2048 --outfile ca.key 2>&1")
    first.write("/root/pki/ca.template", _TEMPLATES["ca"])
    sign = "certtool --generate-self-signed --load-privkey ca.key --template ca.template --outfile ca.pem 2>&1"
    first.sh(f"cd /root/pki; {sign}")
    for host in hosts:
        # RSA: libvirt 9 refuses ECDSA keys for want of "key encipherment"
        template = _TEMPLATES["host"].format(name=host.name, address=network.address(host.name))
        first.write(f"/root/pki/{host.name}.template", template)
        first.sh(
            'cd /root/pki; certtool --generate-privkey --key-type rsa --bits 2048 --outfile "$1.key" 2>&1\n'
            'certtool --generate-certificate --load-privkey "$1.key" --template "$1.template" --outfile "$1.pem" '
            "--load-ca-certificate ca.pem --load-ca-privkey ca.key 2>&1",
            host.name,
        )
        _copy((f"/root/pki/{name}" for name in ("ca.pem", f"{host.name}.pem", f"{host.name}.key")), first, host)
        host.sh(_STAND_IN, host.name)


def _copy(paths: Iterable[str], source: Host, destination: Host) -> None:
    if source is not destination:
        for path in paths:
            destination.write(path, source.read(path), mode="600")

"""TLS, of libvirt's connection and of QEMU's stream."""

from __future__ import annotations

from kvmigd.checks.failures.entry import HERE, entry

TLS = (
    entry(
        "tls.material",
        "Unable to access credentials {path:[^\n ]{0,400}client-[^\n: ]{1,100}}: {reason}",
        "Unable to import client certificate {path}: {reason}",
        origin="qemu crypto/tlscreds.c, crypto/tlscredsx509.c",
        summary="QEMU on {here} cannot use its certificate {path}: {reason}.",
        remedy="On {here}: install it there, readable for QEMU's user (ls -l {path}); /etc/pki/qemu is the usual "
        "folder",
        at=HERE,
        subject="{path}",
    ),
    entry(
        "tls.material",
        "Unable to access credentials {path}: {reason}",
        "Unable to import server certificate {path}: {reason}",
        "Unable to import CA certificate list {path:[^\n: ]{1,400}}: {reason}",
        "Cannot load CA certificate '{path}': {reason}",
        "Cannot load certificate '{path}' & key '{key}': {reason}",
        origin="qemu crypto/tlscreds.c, crypto/tlscredsx509.c",
        summary="QEMU cannot use the certificate {path}: {reason}.",
        remedy="On {there}: install it there, readable for QEMU's user (ls -l {path}); /etc/pki/qemu is the usual "
        "folder",
        subject="{path}",
    ),
    entry(
        "tls.material",
        "Cannot read {kind:[A-Za-z ]{1,40}} '{path}': {reason}",
        "Unable to set x509 CA certificate: {path}: {reason}",
        "Unable to set x509 key and certificate: {key}, {path}: {reason}",
        origin="libvirt src/rpc/virnettlscontext.c",
        summary="libvirt on {here} cannot use {path}: {reason}.",
        remedy="On {here}: install the certificates of libvirt's client: /etc/pki/CA/cacert.pem, "
        "/etc/pki/libvirt/clientcert.pem, /etc/pki/libvirt/private/clientkey.pem",
        at=HERE,
        subject="{path}",
    ),
    entry(
        "tls.material",
        "The certificate {path} has expired",
        "The {role:server|client|CA} certificate {path} has expired",
        "The {role:server|client|CA} certificate has expired",
        "Certificate has expired",
        origin="libvirt src/rpc/virnettlscert.c, virnettlscontext.c; qemu crypto/tlscredsx509.c, crypto/tlssession.c",
        summary="A certificate has expired.",
        remedy="On {here} and {there}: kvmigctl pki issue NAME makes a new one; certtool -i --infile "
        "/etc/pki/qemu/server-cert.pem shows until when one is good",
        subject="certificate",
    ),
    entry(
        "clock.skew",
        "The certificate {path} is not yet active",
        "The {role:server|client|CA} certificate {path} is not yet active",
        "The {role:server|client|CA} certificate is not yet active",
        "The certificate is not yet activated",
        origin="libvirt src/rpc/virnettlscert.c, virnettlscontext.c; qemu crypto/tlscredsx509.c",
        summary="A certificate is not valid yet: the clock of one of the hosts is wrong.",
        remedy="On {here} and {there}: timedatectl; systemctl enable --now chronyd (or systemd-timesyncd)",
        subject="clock",
    ),
    entry(
        "tls.material",
        "usage does not permit key encipherment",
        "usage does not permit digital signature",
        "usage does not permit certificate signing",
        "purpose does not allow use for with a TLS",
        "purpose does not allow use with a TLS",
        origin="libvirt src/rpc/virnettlscert.c, virnettlscontext.c; qemu crypto/tlscredsx509.c",
        summary="A certificate is of the wrong kind: its key usage does not fit (libvirt 9 and older want RSA keys).",
        remedy="On {here} and {there}: kvmigctl pki issue NAME makes RSA certificates with the right usage",
        subject="certificate",
    ),
    entry(
        "tls.material",
        "Certificate {path} owner does not match the hostname {name}",
        "Certificate does not match the hostname {name}",
        origin="libvirt src/rpc/virnettlscontext.c; qemu crypto/tlssession.c",
        summary="The certificate of {there} is not for the name {name}.",
        remedy="On {there}: issue a certificate with {name} among its names (subjectAltName)",
        subject="certificate",
    ),
    entry(
        "tls.material",
        "Our own certificate {path} failed validation against {authority:[^\n:]{1,400}}: {reason}",
        "The certificate hasn't got a known issuer",
        "The certificate is not trusted",
        "The certificate has been revoked",
        "The certificate uses an insecure algorithm",
        "Failed to verify peer's certificate",
        "Certificate failed validation: {reason}",
        origin="libvirt src/rpc/virnettlscontext.c, virnettlscert.c; qemu crypto/tlssession.c, crypto/tlscredsx509.c",
        summary="The certificates of {here} and {there} do not come from the same authority.",
        remedy="On {here} and {there}: sha256sum /etc/pki/CA/cacert.pem /etc/pki/qemu/ca-cert.pem; the same "
        "authority must have signed both hosts' certificates",
        subject="certificate",
    ),
    entry(
        "tls.material",
        "Client's Distinguished Name is not on the list of allowed clients",
        origin="libvirt src/rpc/virnettlscontext.c",
        summary="libvirt on {there} does not know the certificate of {here}.",
        remedy="On {there}: add the name of {here}'s certificate to tls_allowed_dn_list in /etc/libvirt/libvirtd.conf "
        "(virtproxyd.conf), and restart it",
        subject="tls_allowed_dn_list",
    ),
    entry(
        "tls.material",
        "host migration TLS directory not configured",
        "migrate_tls_x509_cert_dir directory '{path}' does not exist",
        "default_tls_x509_cert_dir directory '{path}' does not exist",
        origin="libvirt src/qemu/qemu_migration_params.c, qemu_conf.c",
        summary="libvirt has no folder with the certificates for QEMU's stream.",
        remedy="On {here} and {there}: put them into /etc/pki/qemu, or set migrate_tls_x509_cert_dir in "
        "/etc/libvirt/qemu.conf",
        subject="migrate_tls_x509_cert_dir",
    ),
    entry(
        "tls.stream",
        "this libvirtd instance allows migration only with VIR_MIGRATE_TLS flag",
        origin="libvirt src/qemu/qemu_migration.c",
        summary="libvirt takes part only in encrypted migrations (migrate_tls_force), and this stream was not to be "
        "one.",
        remedy="On {here} and {there}: kvmigctl pki issue makes the certificates for QEMU's stream, which is "
        "encrypted then",
        at=HERE,
        subject="TLS",
    ),
    entry(
        "tls.stream",
        "Cannot write to TLS channel",
        "Cannot read from TLS channel",
        "TLS handshake failed",
        "TLS migration is not supported with this QEMU binary",
        "The TLS connection was non-properly terminated",
        origin="qemu io/channel-tls.c, crypto/tlssession.c; libvirt src/rpc/virnettlscontext.c, "
        "qemu_migration_params.c",
        summary="The encrypted stream between {here} and {there} was not to be had, or broke: mostly a certificate "
        "that the other side refuses.",
        remedy="On {there}: tail /var/log/libvirt/qemu/{guest}.log says why; on both hosts: openssl verify -CAfile "
        "/etc/pki/qemu/ca-cert.pem /etc/pki/qemu/server-cert.pem",
        subject="TLS",
    ),
)

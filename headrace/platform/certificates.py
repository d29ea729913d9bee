"""The certificate of a home, for mutual TLS between SeaweedFS's gRPC servers.

It serves as client and server certificate, signed by the home's own authority, whose key is discarded so that no other
certificate can be issued. SeaweedFS falls back to no TLS if it cannot read it, so `unguarded` checks that TLS is on.
"""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

from headrace.platform.address import GRPC_OFFSET, LOOPBACK, Ports
from headrace.platform.home import Home, write_private

_DAYS = 3650
_RENEWED_S = 30 * 86_400.0
_SECONDS = 3.0


def certificate_of(home: Home) -> Path:
    """A PEM file with key, certificate and authority; created unless `home` has one valid on this machine for a month.

    Raises `HomeRefused`, `StorageFull`.
    """
    if not _good(home.certificate):
        write_private(home.certificate, _made())
    return home.certificate


def context_of(certificate: Path) -> ssl.SSLContext:
    """The TLS context of a client. Raises `OSError` if the file is missing or damaged."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    return context


def unguarded(home: Home, ports: Ports) -> str | None:
    """Describe a gRPC port of SeaweedFS that does not present this home's certificate; None if all do."""
    context = context_of(home.certificate)
    for port in (ports.master, ports.volume, ports.filer, ports.s3):
        try:
            with socket.create_connection((LOOPBACK, port + GRPC_OFFSET), timeout=_SECONDS) as plain:
                context.wrap_socket(plain, server_hostname=LOOPBACK).close()
        except OSError as error:
            return f"its gRPC port {port + GRPC_OFFSET} does not present this home's certificate ({error})"
    return None


def _good(certificate: Path) -> bool:
    try:
        (authority,) = context_of(certificate).get_ca_certs()
    except (OSError, ValueError):
        return False
    begins, ends = (ssl.cert_time_to_seconds(str(authority[name])) for name in ("notBefore", "notAfter"))
    return begins <= time.time() <= ends - _RENEWED_S and _name() in str(authority["subject"])


def _name() -> str:
    return f"Headrace on {socket.gethostname()}"[:64]


def _made() -> str:
    # Imported here: needed once per home, and takes 0.1 s.
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK)), x509.DNSName("localhost")])

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def signed(subject: x509.Name, public: ec.EllipticCurvePublicKey, *more: x509.ExtensionType, signs: bool) -> bytes:
        builder = (
            x509.CertificateBuilder(issuer_name=named(_name()), subject_name=subject, public_key=public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        )
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        usage |= dict.fromkeys(("encipher_only", "decipher_only"), False)
        usage |= {"digital_signature": not signs, "key_cert_sign": signs, "crl_sign": signs}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        for extension in (
            x509.SubjectKeyIdentifier.from_public_key(public),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            *more,
        ):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    own = signed(named("headrace"), key.public_key(), both, names, signs=False)
    authority = signed(named(_name()), authority_key.public_key(), signs=True)
    return (private + own + authority).decode()

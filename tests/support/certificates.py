"""Certificados de pega, con trustme: una autoridad y lo que firma, en ficheros."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

from comunicacion_tcp.tls import ServerTLS, client_context

_NOW = datetime.now(timezone.utc)
_LONG_AGO = _NOW - timedelta(days=20)


class Certificates:
    """Los ficheros de una carpeta. Cada uno lleva su clave, salvo los de las autoridades."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = self.write("ca.pem", self.authority.cert_pem.bytes())
        """La autoridad que firma los demás."""
        self.other_ca = self.write("otra-ca.pem", trustme.CA().cert_pem.bytes())
        self.server = self.issue("servidor.pem", "localhost", "127.0.0.1", "::1")
        self.client = self.issue("cliente.pem", "cliente.ejemplo")
        self.wrong_name = self.issue("otro-nombre.pem", "otra.ejemplo")
        self.expired = self.issue("caducado.pem", "localhost", since=_LONG_AGO, until=_NOW - timedelta(days=10))
        self.early = self.issue("futuro.pem", "localhost", since=_NOW + timedelta(days=10))
        self.foreign = self.issue("ajeno.pem", "localhost", authority=trustme.CA())

    def issue(
        self,
        name: str,
        *hosts: str,
        since: datetime = _LONG_AGO,
        until: datetime = _NOW + timedelta(days=300),
        authority: trustme.CA | None = None,
    ) -> str:
        """Un certificado para ``hosts`` con su clave, en el fichero ``name``. Devuelve su ruta."""
        issued = (authority or self.authority).issue_cert(*hosts, not_before=since, not_after=until)
        return self.write(name, issued.private_key_and_cert_chain_pem.bytes())

    def write(self, name: str, data: bytes) -> str:
        """El fichero ``name`` con ``data``. Devuelve su ruta."""
        path = self.folder / name
        path.write_bytes(data)
        return str(path)

    def split(self, name: str = "servidor.pem") -> tuple[str, str]:
        """El certificado y la clave de un fichero, en dos."""
        data = (self.folder / name).read_bytes()
        cut = data.index(b"-----BEGIN CERTIFICATE")
        return self.write(f"cert-{name}", data[cut:]), self.write(f"clave-{name}", data[:cut])

    def serving(self, ca: str | None = None) -> ServerTLS:
        """Con qué cifra un servidor de buena fe."""
        return ServerTLS(self.server, ca=ca)

    def trusting(self, cert: str | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """Con qué cifra un cliente que se fía de la autoridad; ``version``, la única que habla."""
        context = client_context(self.ca, cert)
        if version:
            context.minimum_version = context.maximum_version = version
        return context

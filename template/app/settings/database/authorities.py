"""Whose certificates PostgreSQL's driver takes."""

import os
import ssl
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

_VARIABLE = "PGSSLROOTCERT"
_SYSTEM = "system"  # libpq's word
# What systems call it where OpenSSL itself only knows the folder.
_BUNDLES = ("ca-certificates.crt", "ca-bundle.crt")


def own_authorities() -> str | None:
    """Find the file of the authorities that this host has for PostgreSQL alone, as libpq would;
    None if it has none."""
    if named := os.environ.get(_VARIABLE):
        return None if named == _SYSTEM else named
    with suppress(RuntimeError):  # this user has no home
        file = Path("~/.postgresql/root.crt").expanduser()
        if os.access(file, os.F_OK):
            return str(file)
    return None


def system_authorities() -> str | None:
    """Find the file of the authorities that the system trusts; None if there is none."""
    found = ssl.get_default_verify_paths()
    if found.cafile or os.environ.get(found.openssl_cafile_env):
        return found.cafile
    folders = [Path(found.capath or found.openssl_capath), Path("/etc/ssl/certs")]
    files = [folder / bundle for folder in folders for bundle in _BUNDLES]
    return next((str(file) for file in files if file.is_file()), None)


def check_authorities() -> None:
    """Refuse to verify a server's certificate with nothing to verify it by.

    Raises:
        ValueError: there is no file of authorities.
    """
    file = own_authorities()
    if file is not None and not os.access(file, os.R_OK):
        raise ValueError(f"cannot verify the server: {_VARIABLE} names {file}, which is not there")
    if file is None and system_authorities() is None:
        raise ValueError(
            "cannot verify the server: the system has no file of the authorities it trusts. "
            f"Set the variable {_VARIABLE} to one, or install ca-certificates"
        )


def dsn_of_the_system() -> str | None:
    """A DSN that only has the system's authorities in it; None if the driver finds its own.

    The driver never looks at the system's by itself, and takes the name of a file in no other way
    that leaves PGSSLCERT and PGSSLKEY in force.
    """
    file = system_authorities() if own_authorities() is None else None
    return file and f"postgresql://?{urlencode({'sslrootcert': file})}"

"""Who may ask, and where. In: the name of an environment variable, or an address. Out: a key, or whether this machine is meant."""

from __future__ import annotations

import ipaddress
import os
import urllib.parse

from humpback.errors import InputError

__all__ = ["is_loopback", "read_key"]


def read_key(variable: str | None) -> str:
    """Return the key that an environment variable holds; "" when none is named."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"runtime.server.api_key_env={variable} is not set in the environment: export {variable}=...")
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"runtime.server.api_key_env={variable} holds no key: it has characters that no header may have"
        )
    return key


def is_loopback(url: str) -> bool:
    """Tell whether an address is this machine's own."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

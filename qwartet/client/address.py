"""Where a server is: a URL as people write it, checked, to the parts of a connection."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from qwartet.errors import SettingError

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """The place of an OpenAI-compatible API; `path` stands before /v1 and has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(url: str) -> Address:
    """The address that a URL means: http:// is understood, a /v1 at its end is not needed. SettingError for others."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise SettingError(f"the URL {url!r:.80} cannot be read ({error}); {_HINT}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise SettingError(f"the URL {url!r:.80} does not begin with http:// or https://; {_HINT}")
    if parts.username is not None or parts.password is not None:
        raise SettingError(
            "the URL holds a user name or a password, which would be shown; give a key in QWARTET_API_KEY"
        )
    if parts.query or parts.fragment:
        raise SettingError(f"the URL {url!r:.80} has a query or a fragment; {_HINT}")
    if not re.fullmatch(r"[\w.:%-]+", host, re.ASCII) or not re.fullmatch(r"[!-~]*", parts.path) or port == 0:
        raise SettingError(f"the URL {url!r:.80} has no host that can be asked; {_HINT}")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


_HINT = "write it as http://127.0.0.1:8000"

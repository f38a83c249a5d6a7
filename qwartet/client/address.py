"""The address of a server: a URL as people write it, validated and split into the parts of a connection."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from qwartet.errors import SettingError

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """The address of an OpenAI-compatible API; `path` is the part before /v1, without a trailing slash."""

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
        """Whether requests stay on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(url: str) -> Address:
    """The address in a URL; http:// and a trailing /v1 are optional. SettingError if the URL is invalid."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise SettingError(f"the URL {url!r:.80} is not valid ({error}); {_HINT}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise SettingError(f"the URL {url!r:.80} does not start with http:// or https://; {_HINT}")
    if parts.username is not None or parts.password is not None:
        raise SettingError(
            "the URL contains a user name or password, which would be shown in messages; set QWARTET_API_KEY instead"
        )
    if parts.query or parts.fragment:
        raise SettingError(f"the URL {url!r:.80} has a query or a fragment; {_HINT}")
    if not re.fullmatch(r"[\w.:%-]+", host, re.ASCII) or not re.fullmatch(r"[!-~]*", parts.path) or port == 0:
        raise SettingError(f"the URL {url!r:.80} has no valid host; {_HINT}")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


_HINT = "write it as http://127.0.0.1:8000"

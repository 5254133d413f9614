"""One address of a service: requests, the key, the pace, and what is done while the service does not answer."""

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, responses
from ipaddress import ip_address
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener, getproxies

from tqdm import tqdm

from errors import UserError

KEY = "VP_SERVICE_KEY"
ADDRESSES = ("http://", "https://")
TIMEOUT = 60.0  # seconds without a sign of life, after which a request has failed
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before the second try, and before late ones
LONGEST_ASKED = 86400.0  # seconds that a service may ask to wait
LARGEST = 2**24  # bytes of an answer
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # the service may answer the same request later


class NoAnswer(Exception):
    """The service does not answer now. `wait`: seconds that it asks to wait, 0 if it names none."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(HTTPRedirectHandler):
    """A redirection would send the key to another address. It is an error of the address instead."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Proxies(ProxyHandler):
    """The proxies of the environment. None of them reads a key, and none is asked for this machine itself."""

    def proxy_open(self, request: Request, *proxy: Any) -> Any:
        direct = _shows_key(request) or _is_loopback(request.host)
        return None if direct else super().proxy_open(request, *proxy)


class Endpoint:
    """An address that answers requests in JSON.

    The environment variable VP_SERVICE_KEY holds the key, if the service needs one. It is sent as the header
    `Authorization: Bearer KEY`. It is read for each request and kept nowhere.

    Args:
        address: http://... or https://..., without a secret: it stands in messages (`flag_types.network`).
        pause: seconds from one request to the next, at least.
    """

    def __init__(self, address: str, pause: float = 0.0):
        self.address, self._pause = address, pause
        self._open = build_opener(_NoRedirect, _Proxies).open
        self._first = True  # no request has been made

    def insist(self, attempt: Callable[[], Any]) -> Any:
        """Calls `attempt` until it raises no NoAnswer; waits in between, longer each time. It says so once."""
        wait, since = FIRST_WAIT, None
        while True:
            try:
                answer = attempt()
                break
            except NoAnswer as error:
                if since is None:
                    since = time.monotonic()
                    tqdm.write(f"{self.address} does not answer ({error}). The run waits for it and then goes on.")
                time.sleep(max(wait, error.wait, self._pause))
                wait = min(2 * wait, LONGEST_WAIT)
        if since is not None:
            tqdm.write(f"{self.address} answers again, after {time.monotonic() - since:.0f} s.")
        return answer

    @contextmanager
    def paced(self) -> Iterator[None]:
        """A context of one request. It ends when the next one is due, also if this one had no answer."""
        due = time.monotonic() + self._pause
        try:
            yield
        except NoAnswer:
            _sleep_until(due)
            raise
        _sleep_until(due)

    def request(self, body: bytes | None = None) -> Any:
        """What the service answers, read from JSON. A `body` is a PNG file and is sent with POST; without one: GET.

        Raises:
            NoAnswer: there is no answer, and a later request may have one.
            UserError: the service refuses, and would refuse again; or its answer is no JSON; or the host of the first
                request is not found.
        """
        first, self._first = self._first, False
        headers = {"Accept": "application/json"} | ({"Content-Type": "image/png"} if body is not None else {})
        headers |= _authorization()
        try:
            request = Request(self.address, body, headers)
            with self._open(request, timeout=TIMEOUT) as response:
                content = response.read(LARGEST)
                if len(content) == LARGEST:
                    raise self.wrong(f"It has {LARGEST} bytes or more.")
                if response.length:  # what is left of the announced length
                    raise NoAnswer("its answer is cut off")
        except HTTPError as error:
            error.close()
            if error.code not in _PASSING:
                raise self._refusal(error.code) from None
            raise NoAnswer(_status(error.code), _seconds(error.headers.get("Retry-After"))) from None
        except (OSError, HTTPException) as error:  # URLError is an OSError
            raise self._failure(request, error.reason if isinstance(error, URLError) else error, first) from None
        except ValueError:  # of the address, which cannot be encoded
            asked = f"{self.address}: the address of a service is needed."
            raise UserError(asked, "It has parts that no address can have.", "Correct the address.") from None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):  # not shown: it may repeat what was sent
            raise self.wrong(f"It is no JSON, but {len(content)} bytes of something else.") from None

    def wrong(self, found: str) -> UserError:
        """The error for an answer in another format."""
        asked = f"{self.address}: its answers should be as docs/black_box.md says."
        return UserError(asked, found, "Correct the service, or put a small server before it that translates.")

    def _failure(self, request: Request, error: Exception, first: bool) -> Exception:
        """What to raise where the connection failed by an `error`."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._untrusted(error)
        reason = getattr(error, "strerror", None) or type(error).__name__
        if _shows_key(request) and not _is_loopback(request.host) and "http" in getproxies():
            reason += "; the proxy is not asked, as it could read the key"
        if first and isinstance(error, socket.gaierror):
            asked = f"{self.address}: the address of a service is needed."
            step = "Correct the address, or see whether this machine has a network, and which proxy is in http_proxy."
            return UserError(asked, f"The host {request.host} is not found: {reason}.", step)
        return NoAnswer(reason)

    def _untrusted(self, error: OSError) -> UserError:
        asked = f"{self.address}: https:// needs a certificate that this machine trusts."
        step = "Correct the address, or let SSL_CERT_FILE name a file with the certificate of the service's authority."
        return UserError(asked, f"It has none: {error.strerror}.", step)

    def _refusal(self, code: int) -> UserError:
        key = "is sent as the key" if os.environ.get(KEY) else "is not set, so no key is sent"
        steps = {
            401: f"The environment variable {KEY} {key}. Set it to a key that the service takes.",
            403: f"The environment variable {KEY} {key}. Set it to a key that the service takes.",
            404: "Correct the address.",
        }
        moved = "Give the address that it redirects to." if 300 <= code < 400 else "See what the service expects."
        asked = f"{self.address}: a service is needed that answers as docs/black_box.md says."
        return UserError(asked, f"It refuses: {_status(code)}.", steps.get(code, moved))


def _authorization() -> dict[str, str]:
    """The header with the key. http.client would show a key with a line break in its error, hence the check."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        asked = f"The environment variable {KEY} holds the key of the service."
        raise UserError(asked, "It has characters that no header can hold.", "Set it to the key alone.")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _shows_key(request: Request) -> bool:
    """Whether a proxy could read the request's key. In https:// it only learns the name of the host."""
    return request.type == "http" and request.has_header("Authorization")


def _is_loopback(host: str) -> bool:
    """Whether a host, perhaps with a port, is this machine by one of its own addresses: localhost, 127.*, ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _sleep_until(due: float) -> None:
    time.sleep(max(0.0, due - time.monotonic()))


def _status(code: int) -> str:
    """A status in the standard's words: the service's own may hold anything."""
    return f"HTTP {code} {responses.get(code, '')}".strip()


def _seconds(retry_after: str | None) -> float:
    """The header Retry-After: seconds, or a date; at most LONGEST_ASKED. 0 where it is missing or neither."""
    if not retry_after:
        return 0.0
    if retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_ASKED)
    try:
        return min(max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time()), LONGEST_ASKED)
    except (ValueError, TypeError, OverflowError):
        return 0.0

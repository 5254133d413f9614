"""One address of a service: requests, the key, the pace, and what is done while the service does not answer."""

import json
import os
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http.client import HTTPException, responses
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

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


class Endpoint:
    """An address that answers requests in JSON.

    The environment variable VP_SERVICE_KEY holds the key, if the service needs one. It is sent as the header
    `Authorization: Bearer KEY`. It is read for each request and kept nowhere.

    Args:
        address: http://... or https://..., without a secret: it stands in messages (`flag_types.network`).
    """

    def __init__(self, address: str):
        self.address = address
        self._open = build_opener(_NoRedirect).open

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
                time.sleep(max(wait, error.wait))
                wait = min(2 * wait, LONGEST_WAIT)
        if since is not None:
            tqdm.write(f"{self.address} answers again, after {time.monotonic() - since:.0f} s.")
        return answer

    def request(self, body: bytes | None = None) -> Any:
        """What the service answers, read from JSON. A `body` is a PNG file and is sent with POST; without one: GET.

        Raises:
            NoAnswer: there is no answer, and a later request may have one.
            UserError: the service refuses, and would refuse again; or its answer is no JSON.
        """
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
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise self._untrusted(reason) from None
            raise NoAnswer(getattr(reason, "strerror", None) or type(reason).__name__) from None
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

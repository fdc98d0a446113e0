"""How the watched signals stand, asked of whoever watches them, where the gateway is told an address for it."""

import logging
import time
import urllib.error
import urllib.request

import msgspec

from headrace.streams.dashboard.messages import SignalStates

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
TIMEOUT_S = 0.5
LARGEST_ANSWER = 1_000_000


class SignalReader:
    """Asks `url` each five seconds for SignalStates as JSON; an empty `url` means that nobody reports them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asked_s = float("-inf")
        self.states: SignalStates | None = None
        self.trouble: str | None = None

    @property
    def is_told(self) -> bool:
        """Whether there is an address to ask."""
        return bool(self._url)

    def look(self) -> SignalStates | None:
        """Return the newest answer; None before the first."""
        if self._url and time.monotonic() - self._asked_s >= ASK_EVERY_S:
            self._asked_s = time.monotonic()
            try:
                self.states = self._ask()
                self.trouble = None
            except (OSError, urllib.error.URLError, msgspec.MsgspecError, ValueError) as error:
                self.trouble = f"{self._url} gave no states of signals ({error})"
                log.warning("states of signals not taken in", extra={"reason": str(error)})
        return self.states

    def _ask(self) -> SignalStates:
        if not self._url.startswith(("http://", "https://")):
            raise ValueError(f"an address that begins with http:// or https:// was expected; the value is {self._url!r}")
        with urllib.request.urlopen(self._url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked above
            body = answer.read(LARGEST_ANSWER + 1)
        if len(body) > LARGEST_ANSWER:
            raise ValueError(f"at most {LARGEST_ANSWER} bytes were expected")
        return msgspec.json.decode(body, type=SignalStates)

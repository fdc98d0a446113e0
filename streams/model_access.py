"""What a part needs to tell whose weights and decisions count, to load weights, and to decide itself."""

import hmac
from dataclasses import dataclass
from pathlib import Path

from headrace.streams.signing import SigningKey, TrustedKeys
from headrace.streams.weight_store import WeightStore


@dataclass(frozen=True)
class ModelAccess:
    """Without `trusted` keys everything counts; without a `store` weights come from Kafka alone.

    `signing_key` is the file of the private key for decisions, `admin_token_file` holds what whoever asks for one over HTTP must
    present; without the latter nobody may. `trusted_set` holds histories that each candidate is tried on.
    """

    trusted: TrustedKeys | None = None
    store: WeightStore | None = None
    signing_key: Path | None = None
    admin_token_file: Path | None = None
    trusted_set: Path | None = None

    def key(self) -> SigningKey | None:
        """Return the key for decisions; None where no file is named. Raises KeyProblem."""
        return SigningKey.load(self.signing_key) if self.signing_key is not None else None

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header bears the token, compared in constant time. Raises OSError where its file cannot be read."""
        if self.admin_token_file is None:
            return False
        token = self.admin_token_file.read_bytes().strip()
        scheme, _, presented = authorization.partition(" ")
        same = hmac.compare_digest(presented.strip().encode(), token)
        return bool(token) and scheme.lower() == "bearer" and same

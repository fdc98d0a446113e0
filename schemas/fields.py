"""The constrained field types that messages share."""

from typing import Annotated

from msgspec import Meta

# `$` alone lets a line feed stand at the end, in Python and not in JavaScript; this reads alike in both.
END = r"$(?!\n)"

Id = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=rf"^[^\x00-\x1f\x7f]+{END}", description="1 to 128 characters, no control characters"),
]
TimeMs = Annotated[int, Meta(ge=0, lt=2**53, description="milliseconds since 1970-01-01T00:00:00Z")]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Amount = Annotated[float, Meta(ge=0, le=1e12, description="in units of the currency that stands beside it")]
Currency = Annotated[str, Meta(pattern=rf"^[A-Z]{{3}}{END}", description="ISO 4217 code, such as EUR")]
Sha256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{END}", description="SHA-256 in lower-case hexadecimal")]
ShortText = Annotated[str, Meta(max_length=1024)]
Offsets = Annotated[
    dict[str, int],
    Meta(description="the last offset taken in of each source partition, as {'topic/partition': offset}"),
]
NewestTimes = Annotated[
    dict[str, int],
    Meta(description="the newest event time of each source partition, as {'topic/partition': milliseconds since 1970}"),
]
Base64 = Annotated[bytes, Meta(extra_json_schema={"pattern": r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"})]
RecentEvents = Annotated[
    dict[str, Base64],
    Meta(description="the last events of each source partition, oldest first: 16 bytes each, a hash of the event id and the offset"),
]

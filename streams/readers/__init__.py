"""Files of shop data, ours and published research sets, as a stream of events."""

from headrace.streams.readers.files import count_events, open_events
from headrace.streams.readers.layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "Layout", "count_events", "open_events"]

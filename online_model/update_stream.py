"""Where the weights of a copy are changed on a GPU: beside the answers, none of which wait but those that read that copy next."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class UpdateStream:
    """A stream of one copy's updates. Where there is no GPU it does nothing: there, what was called for is done."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._applied: torch.cuda.Event | None = None

    @contextmanager
    def applying(self) -> Iterator[None]:
        """Have the GPU do what follows on the stream, after all that it has been asked for on the stream that was current before."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._applied = self._stream.record_event()

    def wait(self) -> None:
        """Have the GPU begin what this thread asks of it next when all that follows `applying` is done. The thread itself goes on."""
        if self._applied is not None:
            torch.cuda.current_stream().wait_event(self._applied)

"""Python environments of peers: each made from a lock of its own at first use, kept in HEADRACE_HOME."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class PeerNotInstalled(RuntimeError):
    """The environment of a peer cannot be made."""


@dataclass(frozen=True)
class PeerEnvironment:
    """Where a peer lives: its `name` to people, the `lock` of hashes it is made from, its `folder`, and the option that leaves it out."""

    name: str
    lock: Path
    folder: str
    without: str

    def python(self, home: Path, tell: Callable[[str], None], *, install: bool = True) -> Path | None:
        """Return the Python of the environment, which is made where it is missing or was made of another lock.

        Without `install`, None is returned instead of making it. Raises PeerNotInstalled.
        """
        folder = home / "bench" / self.folder
        python, mark = folder / "bin" / "python", folder / "made-of"
        wanted = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        if mark.exists() and mark.read_text() == wanted:
            return python
        if not install:
            return None
        tell(f"installing {self.name} into an environment of its own (first use only)")
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        if uv is None:
            raise PeerNotInstalled(f"the peer {self.name} is installed with uv, which is missing; install it with: pip install uv")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        self._run([uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(self.lock)])
        mark.write_text(wanted)
        return python

    def _run(self, command: list[str]) -> None:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise PeerNotInstalled(
                f"{self.name} cannot be installed ({' '.join(command[1:3])} ended with {result.returncode}); "
                f"measure without it by {self.without}, or see why:\n{result.stderr[-2000:]}"
            )


QUIX = PeerEnvironment("Quix Streams", Path(__file__).with_name("quix.lock"), "quix-venv", "--no-quix")
DRIFT_PEERS = PeerEnvironment("Evidently with alibi-detect", Path(__file__).with_name("drift_peers.lock"), "drift-peers-venv", "--no-peers")

"""The Python environment of the Quix Streams peer: made from `quix.lock` at first use, kept in HEADRACE_HOME."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LOCK = Path(__file__).with_name("quix.lock")


class PeerNotInstalled(RuntimeError):
    """The environment of a peer cannot be made."""


def quix_python(home: Path, tell: Callable[[str], None], *, install: bool = True) -> Path | None:
    """Return the Python of the environment, which is made where it is missing or was made of another lock.

    Without `install`, None is returned instead of making it. Raises PeerNotInstalled.
    """
    folder = home / "bench" / "quix-venv"
    python, mark = folder / "bin" / "python", folder / "made-of"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return python
    if not install:
        return None
    tell("installing Quix Streams into an environment of its own (first use only)")
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise PeerNotInstalled("the peer Quix Streams is installed with uv, which is missing; install it with: pip install uv")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(LOCK)])
    mark.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise PeerNotInstalled(
            f"Quix Streams cannot be installed ({' '.join(command[1:3])} ended with {result.returncode}); "
            f"measure without it by --no-quix, or see why:\n{result.stderr[-2000:]}"
        )

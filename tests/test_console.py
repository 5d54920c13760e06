"""A process finishes its work even if stdout or stderr is closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import sys
from pathlib import Path
from gmu_lightning.console import settle_in
settle_in()
for n in range(3000):
    print("an unread line", n)
print(sys.argv[2], flush=True)
Path(sys.argv[1]).write_text("written")
"""


def shell(line: str, tmp_path: Path, text: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `line` in bash, where the command `work` prints 3,000 lines and `text` and writes a file."""
    (tmp_path / "work.py").write_text(WORK)
    return subprocess.run(
        ["bash", "-c", f"work() {{ {sys.executable} {tmp_path / 'work.py'} {tmp_path / 'file'} '{text}'; }}; {line}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "work | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}",
        "work | true; exit ${PIPESTATUS[0]}",
        "work 2>&1 | true; exit ${PIPESTATUS[0]}",
        "work > /dev/full",
        "work >&-",
        "work >&- 2>&-",
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_stdout_leaves_files_and_exit_code_intact(tmp_path, line, unbuffered):
    done = shell(line, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, "Traceback" in done.stderr, "Exception" in done.stderr) == (0, False, False), done.stderr
    assert (tmp_path / "file").read_text() == "written"


def test_full_stdout_is_reported_on_stderr(tmp_path):
    assert "stdout takes no more (No space left on device)" in shell("work > /dev/full", tmp_path).stderr


def test_unencodable_characters_are_printed_as_escapes(tmp_path):
    done = shell("work", tmp_path, "\u0939 caf\u00e9", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\\u0939 caf\\xe9\n")


def test_notebook_backend_in_the_environment_is_ignored(tmp_path):
    draw = "from gmu_lightning.console import settle_in; settle_in(); import matplotlib; print(matplotlib.get_backend())"
    done = subprocess.run(
        [sys.executable, "-c", draw],
        env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip().lower()) == (0, "agg"), done.stderr

"""Several runs of pytest side by side: `python -m tests.tools.abreast 'ARGUMENTS' 'ARGUMENTS' ...`.

For tests that mostly wait. Each run's output comes whole, when it has ended; the exit code is 0 if all of theirs are.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed


def _run(arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pytest", *shlex.split(arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def main(runs: list[str]) -> int:
    """All of them, at once."""
    worst = 0
    with ThreadPoolExecutor(len(runs)) as pool:
        for future in as_completed([pool.submit(_run, arguments) for arguments in runs]):
            done = future.result()
            worst = max(worst, abs(done.returncode))
            print(f"$ {shlex.join(map(str, done.args))}", flush=True)
            sys.stdout.buffer.write(done.stdout)
            sys.stdout.buffer.flush()
    return min(worst, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Start a PostgreSQL server in a temporary directory, and stop it when it is no longer needed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotInstalledError(Exception):
    """PostgreSQL's programs were not found."""


def programs() -> Path:
    """Return the directory with `initdb` and `pg_ctl`; on Debian it is not in PATH.

    Raises:
        NotInstalledError: PostgreSQL is not installed.
    """
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    debian = sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, debian)])
    found = shutil.which("initdb", path=path)
    if found is None:
        raise NotInstalledError("no initdb, neither in PATH nor in /usr/lib/postgresql")
    return Path(found).resolve().parent


@contextmanager
def scratch() -> Iterator[Path]:
    """Run a server with default settings (a commit waits for the disk) on a Unix socket.

    Yields:
        The directory of the socket, to use as the host of a connection. The user and the database
        are `postgres`. Other users cannot read the directory, so the server asks for no password.

    Raises:
        NotInstalledError: PostgreSQL is not installed.
        subprocess.CalledProcessError: the server does not start; its output is printed.
    """
    bin_directory = programs()
    run_as: dict[str, object] = {}  # PostgreSQL refuses to run as root
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        directory = Path(name)
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(directory, account.pw_uid, account.pw_gid)
            run_as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

        def run(program: str, *arguments: str) -> None:
            # A file, not a pipe: the server would keep a pipe open.
            with open(directory / "output", "a+b") as output:
                done = subprocess.run(
                    [bin_directory / program, "-D", directory / "data", *arguments],
                    cwd=directory, stdout=output, stderr=output, check=False, **run_as,
                )  # fmt: skip
                if done.returncode:
                    output.seek(0)
                    print(output.read().decode(errors="replace"))
                    done.check_returncode()

        run("initdb", "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "start", "-w", "-o", f"-k {directory} -c listen_addresses=''")
        try:
            yield directory
        finally:
            run("pg_ctl", "stop", "-w", "-m", "fast")

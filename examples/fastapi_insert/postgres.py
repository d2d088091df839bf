"""A PostgreSQL server of one's own, in a temporary directory, for as long as it is needed."""

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
    """There are no binaries of PostgreSQL here."""


def programs() -> Path:
    """The directory with `initdb` and `pg_ctl`; Debian has it outside the PATH.

    Raises:
        NotInstalledError: there is none.
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
    """A server with default settings (it waits for the disk) behind a Unix socket.

    Gives the directory of the socket, which is what libpq takes for a host; the user and the
    database are `postgres`. The directory is closed to other users, so it asks for no password.

    Raises:
        NotInstalledError: PostgreSQL is not installed.
        subprocess.CalledProcessError: it does not start; its output says why.
    """
    where = programs()
    # PostgreSQL refuses to be run by root.
    somebody: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        directory = Path(name)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            somebody = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

        def run(program: str, *arguments: str) -> None:
            # Into a file: the server would keep a pipe open.
            with open(directory / "output", "a+b") as output:
                done = subprocess.run(
                    [where / program, "-D", directory / "data", *arguments],
                    cwd=directory, stdout=output, stderr=output, check=False, **somebody,
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

"""A Zope instance on one of the backends: its files, its process, its scripts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

from backends import Backend
from environment import HERE, say

THREADS = 4
USER, PASSWORD = "admin", "correct horse"
START_SECONDS = 180
STOP_SECONDS = 60

ZOPE_CONF = """\
%define INSTANCE {instance}
{imports}instancehome $INSTANCE
debug-mode off
<environment>
  CHAMELEON_CACHE $INSTANCE/var/cache
</environment>
<dos_protection>
  form-memory-limit 64MB
  form-disk-limit 1GB
</dos_protection>
<zodb_db main>
  mount-point /
  cache-size 30000
{section}</zodb_db>
"""

# Port 0: the system picks a free one, and waitress says which. %% is logging's own.
ZOPE_INI = """\
[app:zope]
use = egg:Zope#main
zope_conf = {instance}/etc/zope.conf

[filter:loads]
paste.filter_factory = storage_loads:filter_factory

[pipeline:main]
pipeline =
    {filters}
    zope

[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = 0
threads = {threads}

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = %(asctime)s %(levelname)s [%(name)s:%(lineno)s][%(threadName)s] %(message)s
"""


class InstanceError(Exception):
    """What the process did instead, and where its log is."""


class Instance:
    """Zope in `directory`. `counted` puts storage_loads around the storage. One process at a time; stop() joins it."""

    def __init__(self, bin_dir: Path, directory: Path, backend: Backend, counted: bool = False) -> None:
        self.bin_dir = bin_dir
        self.directory = directory
        self.backend = backend
        self.counted = counted
        self.storage_dir = directory / "var" / "storage"
        self.log_path = directory / "var" / "log" / "instance.log"
        self.url = ""
        self._server: subprocess.Popen[bytes] | None = None
        self._zope: subprocess.Popen[bytes] | None = None
        self._drain: threading.Thread | None = None

    @property
    def conf(self) -> Path:
        return self.directory / "etc" / "zope.conf"

    def make(self, fresh: bool = False) -> None:
        """The instance's files, from mkwsgiinstance and the two templates above."""
        if fresh:
            shutil.rmtree(self.directory, ignore_errors=True)
        if not (self.directory / "inituser").exists() and not self.storage_dir.exists():
            run = [self.bin_dir / "mkwsgiinstance", "-d", self.directory, "-u", f"{USER}:{PASSWORD}"]
            subprocess.run(run, check=True)
        self.storage_dir.mkdir(parents=True, exist_ok=True)
        imports, section = self.backend.zope_conf(self.storage_dir)
        if self.counted:
            imports += "%import storage_loads\n"
            section = f"  <storage-loads>\n{section}  </storage-loads>\n"
        self.conf.write_text(ZOPE_CONF.format(instance=self.directory, imports=imports, section=section))
        filters = "egg:Zope#httpexceptions" + ("\n    loads" if self.counted else "")
        ini = ZOPE_INI.format(instance=self.directory, filters=filters, threads=THREADS)
        (self.directory / "etc" / "zope.ini").write_text(ini)

    def script_command(self) -> list[str | Path]:
        return [self.bin_dir / "zconsole", "run", self.conf]

    def serve_command(self) -> list[str | Path]:
        return [self.bin_dir / "runwsgi", self.directory / "etc" / "zope.ini"]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}

    def start_server(self) -> None:
        if self._server is None:
            self._server = self.backend.start(self.bin_dir, self.storage_dir)

    def run_script(self, script: Path, *args: str | os.PathLike[str]) -> str:
        """The output of a script that zconsole runs; the instance must be stopped."""
        self.start_server()
        command = [*self.script_command(), script, *args]
        done = subprocess.run(command, env=self._environment(), capture_output=True)
        with self.log_path.open("ab") as log:
            log.write(done.stderr)
        if done.returncode != 0:
            raise InstanceError(f"{script.name}: exit {done.returncode}\n{done.stderr.decode()[-4000:]}")
        return done.stdout.decode()

    def start(self) -> None:
        """Start Zope, and wait until it listens."""
        self.start_server()
        self._zope = subprocess.Popen(
            self.serve_command(),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a script of buildout's has Zope in a child
        )
        listening = threading.Event()
        self._drain = threading.Thread(target=self._copy_log, args=(self._zope, listening), daemon=True)
        self._drain.start()
        if not listening.wait(START_SECONDS) or not self.url:
            code = self._zope.poll()
            self.kill()
            raise InstanceError(f"Zope does not listen (exit {code}); its log: {self.log_path}\n{self.log_tail()}")

    def _copy_log(self, zope: subprocess.Popen[bytes], listening: threading.Event) -> None:
        self.url = ""
        with self.log_path.open("ab") as log:
            for line in zope.stdout or ():
                log.write(line)
                log.flush()
                if not self.url and b"Serving on http://" in line:
                    self.url = line.split(b"Serving on ")[1].split()[0].decode()
                    listening.set()
        listening.set()

    def log_tail(self, size: int = 4000) -> str:
        return self.log_path.read_bytes()[-size:].decode("utf-8", "replace") if self.log_path.exists() else ""

    def _end(self, sent: signal.Signals) -> None:
        zope, self._zope = self._zope, None
        if zope is None:
            return
        os.killpg(zope.pid, sent)
        try:
            zope.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(zope.pid, signal.SIGKILL)
            zope.wait()
            raise InstanceError(f"Zope did not stop within {STOP_SECONDS} s of {sent.name}") from None
        finally:
            if self._drain is not None:
                self._drain.join()
            if zope.stdout is not None:
                zope.stdout.close()

    def stop(self) -> None:
        """SIGTERM, as a process manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, as the out-of-memory killer does."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop Zope and the storage's server."""
        try:
            self.stop()
        finally:
            server, self._server = self._server, None
            if server is not None:
                server.terminate()
                server.wait(STOP_SECONDS)

    def make_site(self) -> float:
        """The Plone site, unless it is there; the seconds that it took."""
        began = time.monotonic()
        self.run_script(HERE / "site_script.py")
        took = time.monotonic() - began
        say(f"{self.backend.name}: the site is there after {took:.0f} s")
        return took

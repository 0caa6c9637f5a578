"""A real nginx with the files of deploy/nginx."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import define, field

from tests.deploy.files import DEPLOY, PROGRAMS
from tests.postgres import free_port
from tests.web.conftest import connected, until

SERVER = re.compile(r"^( *server) [^ ;]+", re.MULTILINE)
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
CONF = DEPLOY / "nginx" / "task-orchestrator.conf"
UPSTREAM = DEPLOY / "nginx" / "upstream.conf"


def with_servers(text, instances):
    """An upstream of these addresses; where there are more in the file, the others are down."""
    left = iter(instances)
    text = SERVER.sub(lambda match: f"{match[1]} {next(left, None) or '127.0.0.1:1 down'}", text)
    return text.replace(" resolve", "")  # Debian's nginx is older than that


@define
class Nginx:
    """nginx on a port of 127.0.0.1, with everything of it below one folder."""

    place: Path
    upstream: Path = UPSTREAM
    port: int = field(factory=free_port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def write(self, *instances):
        """The files of deploy/, with other addresses and folders."""
        (self.place / "conf.d").mkdir(exist_ok=True)
        for path in (DEPLOY / "nginx" / "nginx.conf", CONF, self.upstream):
            text = (
                path.read_text().replace("/etc/nginx/", f"{self.place}/").replace("/var/log/nginx/", f"{self.place}/")
            )
            text = text.replace("/run/nginx.pid", f"{self.place}/nginx.pid")
            text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
            if path == self.upstream:
                text = with_servers(text, instances)
            folder = self.place if path.name == "nginx.conf" else self.place / "conf.d"
            (folder / path.name).write_text(text)
        places = "".join(f"{it}_temp_path {self.place}/{it};\n" for it in TEMPORARY)
        (self.place / "conf.d" / "places.conf").write_text(places)

    def command(self, *more):
        as_root = "user root; " if os.geteuid() == 0 else ""
        options = ["-p", self.place, "-c", self.place / "nginx.conf", "-g", f"{as_root}daemon off;"]
        return [PROGRAMS / "nginx", *options, *more]

    def checked(self):
        return subprocess.run(self.command("-t"), capture_output=True, text=True, timeout=30)

    def start(self):
        with (self.place / "stderr").open("wb") as stderr:
            return subprocess.Popen(self.command(), stderr=stderr)

    @asynccontextmanager
    async def running(self):
        process = self.start()
        try:
            await until(self.listens)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 15) == 0

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self):
        return [json.loads(line) for line in (self.place / "access.log").read_text().splitlines()]


@asynccontextmanager
async def door(tmp_path, *instances):
    """A caller before nginx before these instances: servers, or ports."""
    nginx = Nginx(tmp_path)
    nginx.write(*(f"127.0.0.1:{getattr(it, 'port', it)}" for it in instances))
    async with nginx.running(), connected(nginx) as api:
        api.nginx = nginx
        yield api

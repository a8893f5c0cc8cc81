"""Un Prometheus de verdad, en su carpeta y su puerto, que mira a un servidor; y preguntarle por HTTP a quien sea."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import Any

from .tools import need
from .waiting import PATIENCE, wait_until

_CONFIG = """\
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}
scrape_configs:
  - job_name: comunicacion_tcp
    static_configs: [{{ targets: ["{}"] }}]
"""

# Por HTTP sin pasar por ningún intermediario que diga el entorno.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Page:
    """Una respuesta de HTTP."""

    def __init__(self, status: int, headers: Message, text: str) -> None:
        self.status = status
        self.headers = headers
        self.text = text


def get(url: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Page:
    """Lo que responde ``url``, sea un error o no."""
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)
    try:
        with _opener.open(request, timeout=PATIENCE) as answer:
            return Page(answer.status, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Page(error.code, error.headers, error.read().decode())


def promtool(*arguments: str, entry: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Lo que dice ``promtool`` de algo; la salida y los errores, juntos."""
    command = [need("promtool"), *arguments]
    return subprocess.run(
        command, input=entry, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, cwd=cwd
    )


class Prometheus:
    """Uno en marcha, en ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Lo que responde ahora a ``expression``: sus series."""
        page = get(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        answer = json.loads(page.text)
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """El único valor de ``expression``, si lo hay."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Un Prometheus que pregunta a ``target`` (``"máquina:puerto"``) dos veces por segundo. Lo que no le responden a
    tiempo deja un hueco: en una máquina ocupada, lo último que sabe puede ser que no sabe."""
    program = need("prometheus")
    config, log = folder / "prometheus.yml", folder / "registro"
    config.write_text(_CONFIG.format(target))
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'datos'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        try:
            port = ""

            def listening() -> bool:
                nonlocal port
                match = re.search(r'msg="Listening on" (?:component=web )?address=127\.0\.0\.1:(\d+)', log.read_text())
                port = match[1] if match else ""
                assert process.poll() is None, log.read_text()
                return bool(match)

            wait_until(listening, "que Prometheus escuche")
            running = Prometheus(f"http://127.0.0.1:{port}")
            wait_until(lambda: get(f"{running.url}/-/ready").status == 200, "que Prometheus esté listo")
            yield running
        finally:
            process.kill()

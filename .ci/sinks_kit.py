"""For check_sinks.py: an MLflow server that can be killed, runs, pushes, and that no file of theirs has a secret in it."""

import base64
import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from sink_readers import DEADLINE_S, SCRIPTS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = pathlib.Path(sys.argv[1]).resolve()
FINISHED = pathlib.Path(sys.argv[2]).resolve()
# Drawn anew, since the diff of a checkout with changes is kept with a run, and this file may be among them.
SECRET = secrets.token_hex(16)
SINKS = 'tracker.sinks=["embedded","mlflow","wandb","tensorboard"]'


def until(what, look):
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server` over SQLite, which can be killed and started again."""

    shared = None

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        self.url = Server.shared = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [SCRIPTS / "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                   "--artifacts-destination", self.folder / "artifacts", "--port", str(self.port), "--workers", "1"]
        with open(self.folder / "mlflow.log", "a") as log:
            # A session of its own, since it starts processes that must end with it.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)

    def ready(self):
        return urllib.request.urlopen(f"{self.url}/health", timeout=2).status == 200

    def kill(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def coordinator(runs, name, url, *more):
    """The command that trains on the digits and sends the run everywhere."""
    settings = [f"run.dir={runs}", f"run.name={name}", SINKS, f"tracker.mlflow_uri={url}", "tracker.wandb_project=two words",
                "tracker.system_every=1s"]
    command = [PROGRAMS / "coordinator", "--config", "configs/digits.toml"]
    return command + [part for setting in settings for part in ("--set", setting)] + list(more)


def spawn(folder, command, **more):
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(folder), MLFLOW_TRACKING_TOKEN=SECRET, **more)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, code):
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, (process.returncode, said)
    assert SECRET not in said and base64.b64encode(f"me:{SECRET}".encode()).decode() not in said, said
    return said


def state(run, sink):
    return json.loads((run / "tracker" / f"{sink}.json").read_text())


def push(folder, run, to, code, *more, **environment):
    command = [PROGRAMS / "coordinator", "tracker", "push", run, "--to", to, *more]
    return finish(spawn(folder, command, **environment), code)


def hidden(run):
    """No file of the run has a secret in it, plain or as it is sent."""
    coded = base64.b64encode(f"me:{SECRET}".encode())
    for path in run.rglob("*"):
        text = path.read_bytes() if path.is_file() else b""
        assert SECRET.encode() not in text and coded not in text, path

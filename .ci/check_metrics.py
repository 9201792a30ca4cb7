#!/usr/bin/env python3
"""Prometheus's own tool on what is shipped for it: scrapes of a real coordinator and a real worker in mid-run, the alert
rules, and whether every figure that the rules and the dashboard name is in a scrape.

    check_metrics.py BIN_DIR CACHE_DIR
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

DEADLINE_S = 120
ROOT = pathlib.Path(__file__).resolve().parent.parent
RULES = ROOT / "docs/prometheus/alerts.yml"
DASHBOARD = ROOT / "docs/grafana/bonfire.json"


def promtool(cache: pathlib.Path) -> str:
    """promtool from the search path, else from Debian's package `prometheus`, unpacked and not installed: no service."""
    if found := shutil.which("promtool"):
        return found
    kept = cache / "prometheus/usr/bin/promtool"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as folder:
            fetch = ["apt-get", "download", "prometheus"]
            if subprocess.run(fetch, cwd=folder, capture_output=True).returncode:
                sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
                subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True)
                subprocess.run(fetch, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            package = next(pathlib.Path(folder).glob("prometheus_*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(package), str(cache / "prometheus")], check=True)
    return str(kept)


def until(what: str, look):
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"check_metrics: not within {DEADLINE_S} s: {what}")


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return answer.read().decode()


def value(text: str, name: str) -> float:
    return float(re.search(rf"^{name} (.+)$", text, re.M)[1])


def mid_run(programs: pathlib.Path) -> dict[str, str]:
    """Scrapes of a coordinator and a worker that have worked together on a few hundred steps."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, XDG_RUNTIME_DIR=folder)
        settings = [f"run.dir={folder}", "run.name=watched", "train.epochs=100000", "telemetry.metrics_listen=127.0.0.1:0"]
        coordinator = subprocess.Popen(
            [programs / "coordinator", "--config", "configs/digits.toml", "--local-workers", "1"]
            + [part for setting in settings for part in ("--set", setting)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
        )
        started = [coordinator]
        try:
            run = pathlib.Path(folder) / "watched"
            url = until("the run's address", lambda: (run / "address").read_text().strip())
            guest = [programs / "worker", "--coordinator", url, "--name", "guest", "--device", "cpu", "--metrics", "127.0.0.1:0"]
            log = pathlib.Path(folder) / "guest.log"
            with open(log, "w") as said:
                started.append(subprocess.Popen(guest, env=environment, stderr=said))
            own = until("the worker's own address", lambda: re.search(r"metrics at http://(\S+)/metrics$", log.read_text(), re.M))[1]
            address = until("metrics-address", lambda: (run / "metrics-address").read_text())
            address = address.strip().removeprefix("http://").removesuffix("/metrics")

            def coordinator_at_work():
                text = scrape(address)
                both = value(text, "bonfire_members") == 2 and value(text, "bonfire_steps_total") > 200
                return text if both else None

            def worker_at_work():
                text = scrape(own)
                return text if value(text, "bonfire_worker_step") > 200 else None

            return {
                "coordinator": until("two members at work", coordinator_at_work),
                "worker": until("a worker at work", worker_at_work),
            }
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def names(expression: str) -> set[str]:
    return set(re.findall(r"\bbonfire_\w+", expression))


def main() -> None:
    programs, cache = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    tool = promtool(cache)
    subprocess.run([tool, "check", "rules", "--lint-fatal", RULES], check=True)

    found = set()
    for who, text in mid_run(programs).items():
        # Exit code 3 is an advice of its linter: taken as seriously as an error.
        checked = subprocess.run([tool, "check", "metrics"], input=text.encode(), capture_output=True)
        said = (checked.stdout + checked.stderr).decode()
        if checked.returncode:
            sys.exit(f"check_metrics: promtool on the {who}'s scrape:\n{said}\n{text}")
        series = set(re.findall(r"^(bonfire_\w+)", text, re.M))
        print(f"promtool accepts the {who}'s scrape: {len(series)} series, {len(text)} bytes")
        found |= series

    # Rules are YAML; their names are found as text, so that no YAML reader is needed.
    wanted = {name: RULES.name for name in names("".join(re.findall(r"expr:(.*?)(?=\n\s+(?:for|labels):)", RULES.read_text(), re.S)))}
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries = [item["query"]["query"] for item in dashboard["templating"]["list"] if isinstance(item["query"], dict)]
    wanted |= {name: DASHBOARD.name for expression in targets + queries for name in names(expression)}
    absent = {name: where for name, where in wanted.items() if name not in found}
    if absent or len(wanted) < 20:
        sys.exit(f"check_metrics: of {len(wanted)} figures these are in no scrape: {absent}")
    page = (ROOT / "docs/monitoring.md").read_text()
    declared = {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
    untold = {name for name in declared if name not in page and "_data_wait_" not in name and "_exchange_" not in name and "_commit_" not in name}
    if untold:
        sys.exit(f"check_metrics: docs/monitoring.md doesn't say what these are: {sorted(untold)}")
    print(f"all {len(wanted)} figures that rules and dashboard name are in a scrape")


main()

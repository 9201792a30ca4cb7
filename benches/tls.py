#!/usr/bin/env python3
"""TLS against plain between two hosts: python3 benches/tls.py [--rounds N]

Real processes of target/release in two network namespaces with a cable (veth) between them: the coordinator on one, two workers
on the other, with `--insecure` and under TLS, turn about. The model has 4 million parameters and a step two samples, so that
a step is mostly gradients that cross the cable: 16 MB up and 16 MB down for each worker. Needs root and `ip`.
"""

import argparse, contextlib, json, os, pathlib, statistics, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 300
STEPS, PARAMETERS, WORKERS = 120, 64 * 2000 + 2000 + 2000 * 1900 + 1900 + 1900 * 10 + 10, 2
HOSTS, ADDRESSES = ("bonfire-bench-a", "bonfire-bench-b"), ("10.213.8.1", "10.213.8.2")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    seconds, ratios = {"plain": [], "tls": []}, []
    with hosts():
        for _ in range(rounds):
            plain, tls = train(["--insecure"]), train([])
            seconds["plain"].append(plain)
            seconds["tls"].append(tls)
            ratios.append(plain / tls)
    moved = 2 * WORKERS * 4 * PARAMETERS
    for name, values in seconds.items():
        step = statistics.median(values)
        spread = f"{1e3 * min(values):.1f} to {1e3 * max(values):.1f}"
        print(f"{name:6} a step takes {1e3 * step:6.1f} ms ({spread}): {moved / step / 1e6:6.0f} MB/s of gradients")
    print(f"TLS has {100 * statistics.median(ratios):.0f} % of plain's throughput "
          f"(median of {rounds} pairs, {100 * min(ratios):.0f} to {100 * max(ratios):.0f})")


@contextlib.contextmanager
def hosts():
    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "bfa", "netns", HOSTS[0], "type", "veth", "peer", "name", "bfb", "netns", HOSTS[1])
        for host, end, address in zip(HOSTS, ("bfa", "bfb"), ADDRESSES):
            ip("-n", host, "address", "add", f"{address}/24", "dev", end)
            ip("-n", host, "link", "set", end, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False)


def train(flags):
    """Seconds of a step, over the last two thirds of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = pathlib.Path(folder, "run")
        settings = [f"train.steps={STEPS}", "train.batch_size=2", "train.microbatch_size=1", "train.evaluate_every=0",
                    "model.hidden=[2000,1900]", "run.name=run", f"run.dir={folder}", "schedule.kind=constant",
                    "schedule.warmup_steps=0", "export.formats=[]", "checkpoint.every=1h", f"elastic.min_workers={WORKERS}",
                    'tracker.sinks=[]']
        command = [ROOT / "target/release/coordinator", "--config", ROOT / "configs/csv.toml", "--local-workers", "0",
                   "--listen", f"{ADDRESSES[0]}:0", *flags]
        for setting in settings:
            command += ["--set", setting]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT,
                 "env": {**os.environ, "XDG_RUNTIME_DIR": folder}}
        enter = ["ip", "netns", "exec"]
        coordinator = subprocess.Popen([*enter, HOSTS[0], *command], **quiet)
        started = [coordinator]
        try:
            until = time.monotonic() + DEADLINE
            while not (run / "address").exists():
                if coordinator.poll() is not None or time.monotonic() > until:
                    raise SystemExit("the coordinator did not start")
                time.sleep(0.05)
            url = (run / "address").read_text().strip()
            join = [ROOT / "target/release/worker", "--coordinator", url, "--token-file", run / "token", "--device", "cpu", *flags]
            started += [subprocess.Popen([*enter, HOSTS[1], *join], **quiet) for _ in range(WORKERS)]
            if coordinator.wait(DEADLINE) != 0:
                raise SystemExit("the run failed")
        finally:
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        times = {line["step"]: line["time"] for line in lines if line["key"] == "train/loss"}
        first = STEPS // 3
        return (times[STEPS] - times[first]) / (STEPS - first)


if __name__ == "__main__":
    main()

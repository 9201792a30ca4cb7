#!/usr/bin/env python3
"""What a loss, a restart, a join and a version cost a run, on one machine: python3 benches/elastic.py [--rounds N]

Real processes of target/release on the digits. Times are the coordinator's own, from run.json, against the moment of
the signal here; medians and the worst of all rounds.
"""

import argparse, json, os, pathlib, signal, statistics, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/coordinator"
DEADLINE = 60


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    for name, model in [("mlp 64-128-64-10", []), ("mlp 64-2000-1900-10", ["model.hidden=[2000,1900]"])]:
        losses, restarts, joins, versions = [], [], [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                losses.append(loss(pathlib.Path(folder), model))
            with tempfile.TemporaryDirectory() as folder:
                restart, join = restart_and_join(pathlib.Path(folder), model)
                restarts.append(restart)
                joins.append(join)
            with tempfile.TemporaryDirectory() as folder:
                versions.append(version(pathlib.Path(folder), model))
        print(name)
        show("SIGKILL of one of three workers to the next view", losses)
        show("start of a coordinator that takes over to its first view", restarts)
        show("a join: the run holds still", joins)
        show("a version: what it adds to the time of the steps", versions)


def show(what, seconds):
    ms = sorted(1e3 * second for second in seconds)
    print(f"  {what:58} median {statistics.median(ms):7.0f} ms, worst {ms[-1]:7.0f} ms")


def start(folder, model, workers, *more):
    """A long run of the digits without versions of its own accord."""
    keys = ["train.epochs=4000", "checkpoint.every=1h", "train.evaluate_every=0", "run.name=run", "train.microbatch_size=8"]
    settings = [part for key in keys + model for part in ("--set", key)]
    command = [PROGRAM, "--config", ROOT / "configs/csv.toml", "--local-workers", str(workers), *settings,
               "--set", f"run.dir={folder}", *more]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def committed(folder):
    """The last step in metrics.jsonl."""
    try:
        return json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def until(what, condition):
    began = time.time()
    while not condition():
        if time.time() - began > DEADLINE:
            raise SystemExit(f"waited {DEADLINE} s for: {what}")
        time.sleep(0.01)


def children(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def stop(process):
    process.send_signal(signal.SIGINT)
    process.wait(DEADLINE)


def events(folder):
    return json.loads((folder / "run/run.json").read_text())["events"]


def loss(folder, model):
    process = start(folder, model, 3)
    until("steps", lambda: committed(folder) > 20)
    killed = time.time()
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    time.sleep(2)
    stop(process)
    return next(event["time"] for event in events(folder) if event["event"] == "view" and event["time"] > killed) - killed


def restart_and_join(folder, model):
    process = start(folder, model, 2)
    until("steps", lambda: committed(folder) > 20)
    process.kill()
    process.wait()
    before = time.time()
    process = start(folder, model, 2, "--resume")
    step = committed(folder)
    until("steps of the next term", lambda: committed(folder) > step)
    address = (folder / "run/address").read_text().strip()
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    guest = subprocess.Popen([PROGRAM.with_name("worker"), "--coordinator", address, "--device", "cpu"], env=environment,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(4)
    stop(process)
    guest.wait(DEADLINE)
    seen = events(folder)
    view = next(event["time"] for event in seen if event["event"] == "view" and event["time"] > before) - before
    return view, next(event["cost_seconds"] for event in seen if event["event"] == "hold")


def version(folder, model):
    """Seconds that one version adds: the same steps with versions and without, one after the other."""
    def seconds(name, every):
        keys = [f"run.name={name}", "train.epochs=4", f"checkpoint.every={every}"]
        settings = [part for key in keys for part in ("--set", key)]
        process = start(folder, model, 2, *settings)
        if process.wait(10 * DEADLINE) != 0:
            raise SystemExit(f"a run of 4 epochs ended with {process.returncode}")
        lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        times = {line["step"]: line["time"] for line in lines if line["key"] == "train/loss"}
        return times[90] - times[10]
    without = seconds("without", "1h")
    return (seconds("with", "10 steps") - without) / 8


if __name__ == "__main__":
    main()

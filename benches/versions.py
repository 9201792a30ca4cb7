#!/usr/bin/env python3
"""What a version costs the training, on one machine: python3 benches/versions.py [--rounds N]

Real processes of target/release on the digits, two local workers, with versions and without, turn about. `stall` is what run.json
says that steps waited for the copy of the state; `in all` is by how much the same steps took longer, divided by the versions:
on a machine whose cores are all busy, hashing and writing behind the training cost it time too.
"""

import argparse, json, pathlib, statistics, subprocess, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 300
# model: its keys, steps, steps between versions
MODELS = {
    "mlp 64-128-64-10 (18 thousand)": ([], 3_000, 300),
    "mlp 64-2000-1900-10 (4 million)": (["model.hidden=[2000,1900]"], 200, 20),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    rounds = arguments.parse_args().rounds
    for name, (keys, steps, every) in MODELS.items():
        stalls, worst, costs = [], [], []
        for _ in range(rounds):
            without, _ = train(keys, steps, "1h")
            took, timings = train(keys, steps, f"{every} steps")
            versions = timings["snapshots"]
            stalls.append(1e3 * timings["snapshot_seconds"] / versions)
            worst.append(1e3 * timings["snapshot_seconds_max"])
            costs.append(1e3 * (took - without) / versions)
        stall, cost = statistics.median(stalls), statistics.median(costs)
        print(f"{name}: a version stalls {stall:.2f} ms (worst {max(worst):.2f}), in all {cost:.0f} ms;")
        print(f"  one a minute: {stall / 600:.4f} % stalled, {cost / 600:.3f} % in all")


def train(keys, steps, every):
    """Seconds from a third of the steps to the last, and run.json's timings."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"train.steps={steps}", "train.evaluate_every=0", f"checkpoint.every={every}", "run.name=run"]
        settings += [f"run.dir={folder}", "schedule.kind=constant", "schedule.warmup_steps=0", "export.formats=[]"]
        command = [ROOT / "target/release/coordinator", "--config", ROOT / "configs/csv.toml", "--local-workers", "2"]
        for setting in settings + keys:
            command += ["--set", setting]
        subprocess.run(command, cwd=ROOT, check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
        run = pathlib.Path(folder, "run")
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        times = {line["step"]: line["time"] for line in lines if line["key"] == "train/loss"}
        first = min(step for step in times if step >= steps // 3)
        scale = steps / (max(times) - first)
        timings = json.loads((run / "run.json").read_text())["timings"]
        return (times[max(times)] - times[first]) * scale, timings


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Resident memory of coordinator and workers over a long run: python3 benches/memory.py [--steps N] [--svg FILE]

Real processes of target/release on the digits, two local workers, the model of configs/digits.toml. Every so many steps /proc
says what each process holds; a table for BENCHMARKS.md goes to standard output, the curves into an SVG.
Nothing but the standard library.
"""

import argparse, json, os, pathlib, signal, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLES = 100
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 320, 60, 44, 34, 20
COLOURS = {"coordinator": "#d9480f", "worker-0": "#1864ab", "worker-1": "#2b8a3e"}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=20_000)
    arguments.add_argument("--svg", type=pathlib.Path)
    arguments = arguments.parse_args()
    curves = measure(arguments.steps)
    table(curves, arguments.steps)
    if arguments.svg:
        arguments.svg.write_text(svg(curves, arguments.steps))


def measure(steps):
    """For each process its (step, resident MiB, open files, threads)."""
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            f"run.dir={folder}", "run.name=memory", "train.epochs=1000000", "train.evaluate_every=20",
            "checkpoint.every=1000 steps", "schedule.kind=constant", "schedule.warmup_steps=0",
        ]
        command = [ROOT / "target/release/coordinator", "--config", ROOT / "configs/digits.toml", "--local-workers", "2"]
        command += [word for setting in settings for word in ("--set", setting)]
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            metrics = pathlib.Path(folder) / "memory" / "metrics.jsonl"
            due = 0
            while due <= steps:
                if run.poll() is not None:
                    raise SystemExit(f"the coordinator ended with {run.returncode}")
                step = last_step(metrics)
                if step < max(due, 1):
                    time.sleep(0.005)
                    continue
                due = step - step % (steps // SAMPLES) + steps // SAMPLES
                for name, pid in processes(run.pid):
                    curves.setdefault(name, []).append((step, *usage(pid)))
        finally:
            run.send_signal(signal.SIGINT)
            run.wait(60)
    return curves


def last_step(metrics):
    """The step of the last whole line."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().split(b"\n")
        return json.loads(lines[-2])["step"] if len(lines) > 2 else 0
    except (FileNotFoundError, ValueError):
        return 0


def processes(coordinator):
    """The coordinator and its workers, by name."""
    yield "coordinator", coordinator
    children = []
    for task in pathlib.Path(f"/proc/{coordinator}/task").iterdir():
        children += (task / "children").read_text().split()
    for pid in children:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "--name" in words:
            yield words[words.index("--name") + 1], int(pid)


def usage(pid):
    """Resident MiB, open files, threads."""
    process = pathlib.Path(f"/proc/{pid}")
    resident = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(resident.split()[1]) / 1024, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def table(curves, steps):
    marks = [steps // 100, steps // 20, steps // 10, steps // 4, steps // 2, steps]
    print("| step | " + " | ".join(f"{mark:,}" for mark in marks) + " | open files, threads |")
    print("| --- |" + " --- |" * (len(marks) + 1))
    for name, curve in curves.items():
        values = [next(s for s in curve if s[0] >= mark) if mark <= curve[-1][0] else curve[-1] for mark in marks]
        first, last = values[0], values[-1]
        held = f"{first[2]}, {first[3]}" if first[2:] == last[2:] else f"{first[2]}, {first[3]}; then {last[2]}, {last[3]}"
        print(f"| {name}, MiB | " + " | ".join(f"{value[1]:.1f}" for value in values) + f" | {held} |")


def svg(curves, steps):
    highest = 10 * (1 + max(int(sample[1]) for curve in curves.values() for sample in curve) // 10)
    x = lambda step: LEFT + min(step, steps) / steps * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - value / highest * (HEIGHT - BOTTOM - TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in range(5):
        value, step = highest * tick / 4, steps * tick // 4
        lines.append(f'<line x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}" stroke="#e9ecef"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#495057">{value:.0f}</text>')
        lines.append(
            f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#495057">{step}</text>'
        )
    lines.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="#495057">step</text>')
    lines.append(f'<text x="{LEFT - 8}" y="20" text-anchor="end" fill="#495057">MiB</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS.get(name, "#495057")
        points = " ".join(f"{x(sample[0]):.1f},{y(sample[1]):.1f}" for sample in curve)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{LEFT + 10 + 160 * number}" y="20" fill="{colour}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Training on a real GPU, here and in PyTorch: PYTHON benches/card.py [--device wgpu] [--bin-dir target/release]

PYTHON is one whose torch sees the card. One worker on the card, through a coordinator as always, against the same net in
a bare loop of torch with its own AdamW; f32 on both sides (no tf32), half precision where --precision asks for it. Data
are noise; evaluation, versions and exports are left out. Before that: what a run of the digits is on the card, by its
accuracy and its digest for one worker and for two, and across a resume.
"""

import argparse, json, pathlib, re, subprocess, sys, tempfile, time, urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import torch_ddp as side

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 240

# name: configuration, what is set beside it, samples a step, steps here, in torch
LOADS = {
    "mnist-cnn, batch 512": ("mnist-cnn", ["dataset.uri=noise-images-idx3-ubyte", "augment.shift=0"], 512, 60),
    "gpt 0.8M, 12 x 64": ("shakespeare-gpt", ["dataset.uri=noise.txt", "train.microbatch_size=12"], 12, 150),
    "gpt 3.3M, 64 x 256": (
        "shakespeare-gpt",
        ["dataset.uri=noise.txt", "model.preset=3.3M", "dataset.window=256"],
        64,
        60,
    ),
    "gpt 124M, 16 x 256": (
        "shakespeare-gpt",
        ["dataset.uri=noise.txt", "model.preset=124M", "dataset.window=256"],
        16,
        18,
    ),
}
GPTS = {"0.8M": (64, 128, 4, 4), "3.3M": (256, 256, 4, 4), "124M": (256, 768, 12, 12)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="wgpu", help="wgpu, or vulkan with a worker that is built for it")
    arguments.add_argument("--bin-dir", type=pathlib.Path, default=ROOT / "target/release")
    arguments.add_argument("--worker", type=pathlib.Path, help="another worker than the one in --bin-dir")
    arguments.add_argument("--precision", default="f32", help="f32,f16,bf16: those to measure")
    arguments.add_argument("--only", default="", help="loads whose name has this")
    arguments.add_argument("--no-digits", action="store_true")
    given = arguments.parse_args()
    given.worker = (given.worker or given.bin_dir / "worker").resolve()
    import torch

    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, device {given.device}", flush=True)
    if not given.no_digits:
        digits(given)
    for name, (config, settings, batch, steps) in LOADS.items():
        if given.only not in name:
            continue
        for precision in given.precision.split(","):
            theirs = in_torch(torch, config, settings, batch, steps, precision)
            try:
                ours, parts = here(given, config, settings, batch, steps, precision)
            except RuntimeError as why:
                print(f"{name:22} {precision}  torch {theirs:9.0f} samples/s, here: {why}", flush=True)
                continue
            ratio = ours / theirs
            print(f"{name:22} {precision}  here {ours:9.0f}  torch {theirs:9.0f} samples/s  {ratio:5.2f}  {parts}", flush=True)


def start(given, folder, config, settings, workers=1, more=()):
    until = time.perf_counter() + DEADLINE
    command = [given.bin_dir / "coordinator", "--config", ROOT / f"configs/{config}.toml", "--local-workers", str(workers)]
    fixed = [f"run.dir={folder}", f"local.devices={given.device}", f"local.worker_binary={given.worker}"]
    for setting in fixed + list(settings):
        command += ["--set", setting]
    run = subprocess.Popen(command + list(more), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    scraped = ""
    while True:
        try:
            out, trouble = run.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            scraped = scrape(folder) or scraped
            if time.perf_counter() > until:
                run.kill()
    if run.returncode:
        raise RuntimeError(f"exit {run.returncode}: {(trouble or out).strip()[-600:]}")
    return scraped


def scrape(folder):
    """The coordinator's figures, if it serves them at the moment."""
    for address in folder.glob("*/metrics-address"):
        try:
            return urllib.request.urlopen(address.read_text().strip(), timeout=1).read().decode()
        except OSError:
            pass
    return ""


def phases(scraped):
    """Mean milliseconds of each phase of a step, the first steps' warming up included."""
    found = dict(re.findall(r'bonfire_step_seconds_(\w+\{[^}]*phase="\w+"[^}]*\}) (\S+)', scraped))
    sums = {re.search(r'phase="(\w+)"', key)[1]: float(value) for key, value in found.items() if key.startswith("sum")}
    counts = {re.search(r'phase="(\w+)"', key)[1]: float(value) for key, value in found.items() if key.startswith("count")}
    return ", ".join(f"{phase} {1e3 * total / max(counts[phase], 1):.1f} ms" for phase, total in sums.items())


def digits(given):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        record = lambda name: json.loads((folder / name / "run.json").read_text())
        table = f"dataset.uri={ROOT / 'datasets/digits/digits.csv'}"
        for workers in (1, 2):
            began = time.perf_counter()
            start(given, folder, "digits", [table, f"run.name=of-{workers}"], workers)
            final = record(f"of-{workers}")["final"]
            accuracy = final["metrics"]["validation/accuracy"]
            took = time.perf_counter() - began
            print(f"digits, {workers} workers: accuracy {accuracy:.4f}, digest {final['digest'][:16]}, {took:.1f} s", flush=True)
        half = [table, "run.name=resumed", "schedule.kind=constant", "schedule.warmup_steps=0"]
        start(given, folder, "digits", half + ["train.epochs=10"])
        start(given, folder, "digits", half + ["train.epochs=20"], 2, ["--resume"])
        whole = [table, "run.name=whole", "schedule.kind=constant", "schedule.warmup_steps=0"]
        start(given, folder, "digits", whole)
        same = record("resumed")["final"]["digest"] == record("whole")["final"]["digest"]
        print(f"digits, resumed at the half with two workers: {'the same digest' if same else 'ANOTHER DIGEST'}", flush=True)


def here(given, config, settings, batch, steps, precision):
    """Samples a second without the first third, and where a step's time went."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        side.make_noise(folder)
        fixed = ["run.name=bench", "train.evaluate_every=0", "checkpoint.every=1h", "export.formats=[]"]
        fixed += [f"train.steps={steps}", "schedule.kind=constant", "schedule.warmup_steps=0", f"train.precision={precision}"]
        sizes = [f"train.batch_size={batch}", f"train.microbatch_size={batch}"]
        scraped = start(given, folder, config, fixed + sizes + settings + ["telemetry.metrics_listen=127.0.0.1:0"])
        lines = list(map(json.loads, (folder / "bench/metrics.jsonl").read_text().splitlines()))
        times = {line["step"]: line["time"] for line in lines if line["key"] == "train/loss"}
        first, last = min(step for step in times if step >= steps // 3), max(times)
        return (last - first) * batch / (times[last] - times[first]), phases(scraped)


def in_torch(torch, config, settings, batch, steps, precision):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    card = torch.device("cuda")
    clip = None
    if config == "shakespeare-gpt":
        preset = next((s.split("=")[1] for s in settings if s.startswith("model.preset")), "0.8M")
        window, width, heads, layers = GPTS[preset]
        net, clip = side.gpt(torch, window, width, heads, layers), 1.0
        tokens = torch.randint(256, (batch, window + 1), device=card)
        x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
    else:
        net, x, y, clip = side.net_and_data(config, batch, torch)
        x, y = x.to(card), y.to(card)
    net = net.to(card)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    half = {"f16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    for step in range(steps):
        if step == steps // 3:
            torch.cuda.synchronize()
            began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cuda", half or torch.float16, enabled=half is not None):
            loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    torch.cuda.synchronize()
    return (steps - steps // 3) * batch / (time.perf_counter() - began)


if __name__ == "__main__":
    main()

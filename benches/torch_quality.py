#!/usr/bin/env python3
"""What the presets reach, here and in PyTorch: PYTHON benches/torch_quality.py --mnist DIR --text FILE [--splits N]

PYTHON is one with torch, as .ci/python makes it; DIR has t10k-images-idx3-ubyte.gz and its labels, FILE is tiny Shakespeare
(`datasets fetch mnist`, `datasets fetch tiny-shakespeare`). The same nets, first weights of the same distributions, batches,
optimizers, schedules and augmentation; evaluation on all that is held out. One after the other, two workers here and two
threads there.
"""

import argparse, gzip, json, math, pathlib, subprocess, tempfile, time

import torch
import torch.nn.functional as F

import torch_ddp

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 1800


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--mnist", type=pathlib.Path)
    arguments.add_argument("--text", type=pathlib.Path)
    arguments.add_argument("--splits", type=int, default=3)
    arguments = arguments.parse_args()
    torch.set_num_threads(2)
    if arguments.text:
        here("shakespeare-gpt", arguments.text, 0, "validation/loss")
        told("shakespeare-gpt", "torch", 0, "validation/loss", torch_gpt, arguments.text.read_bytes())
    for split in range(arguments.splits if arguments.mnist else 0):
        here("mnist-cnn", arguments.mnist / "t10k-images-idx3-ubyte.gz", split, "validation/accuracy")
        told("mnist-cnn", "torch", split, "validation/accuracy", torch_cnn, arguments.mnist, split)


def told(preset, who, split, metric, work, *inputs):
    began = time.monotonic()
    value = work(*inputs)
    print(f"{preset:16} {who:5} split {split}  {metric} {value:.4f}  {time.monotonic() - began:4.0f} s", flush=True)


def here(preset, data, split, metric):
    def run():
        with tempfile.TemporaryDirectory() as folder:
            command = [ROOT / "target/release/coordinator", "--config", ROOT / f"configs/{preset}.toml"]
            for setting in [f"dataset.uri={data.resolve()}", f"dataset.split_seed={split}", "run.name=q", f"run.dir={folder}"]:
                command += ["--set", setting]
            subprocess.run(command, cwd=folder, check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
            return json.loads(pathlib.Path(folder, "q/run.json").read_text())["final"]["metrics"][metric]

    told(preset, "here", split, metric, run)


def rate(step, steps, peak, warmup, least):
    """Linear warm-up, then half a cosine down to a part of the peak; `step` from 1."""
    if step <= warmup:
        return peak * step / warmup
    return peak * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))


def train(net, batches, steps, optimizer, schedule, clip=None):
    for step, (x, y) in zip(range(1, steps + 1), batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, *schedule)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()


def torch_gpt(text, window=64, batch=12, steps=2000):
    torch.manual_seed(0)
    net = torch_ddp.gpt(torch)
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            # GPT-2's: layers that add to the residual stream are scaled by their number.
            is_last = "projection" in name or "dense.2" in name
            torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(8 if is_last else 1))
        elif "bias" in name:
            torch.nn.init.zeros_(parameter)
    tokens = torch.tensor(list(text))
    count = (len(tokens) - 1) // window
    x = tokens[: count * window].view(count, window)
    y = tokens[1 : count * window + 1].view(count, window)
    held_out = math.ceil(count / 10)
    training = count - held_out

    def batches():
        while True:
            for rows in torch.randperm(training).split(batch):
                yield x[rows], y[rows].flatten()

    flat = [p for p in net.parameters() if p.dim() < 2]
    deep = [p for p in net.parameters() if p.dim() > 1]
    groups = [{"params": deep, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    train(net, batches(), steps, optimizer, (1e-3, 100, 0.1), clip=1.0)
    with torch.no_grad():
        rows = torch.arange(training, count).split(64)
        loss = sum(F.cross_entropy(net(x[r]), y[r].flatten(), reduction="sum").item() for r in rows)
    return loss / (held_out * window)


def torch_cnn(folder, split, epochs=5, batch=64):
    def read(name, offset):
        data = gzip.decompress((folder / name).read_bytes())[offset:]
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    images = read("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / 255
    labels = read("t10k-labels-idx1-ubyte.gz", 8).long()
    torch.manual_seed(split)
    order = torch.randperm(len(images))
    held_out, training = order[: len(images) // 10], order[len(images) // 10 :]
    mean, deviation = images[training].mean(), images[training].std()
    images = (images - mean) / deviation
    background = -mean / deviation
    net, *_ = torch_ddp.net_and_data("mnist-cnn", 1, torch)

    def shifted(x):
        wide = F.pad(x, (2, 2, 2, 2), value=background.item())
        places = torch.randint(0, 5, (len(x), 2)).tolist()
        return torch.stack([image[:, a : a + 28, b : b + 28] for image, (a, b) in zip(wide, places)])

    def batches():
        while True:
            for rows in training[torch.randperm(len(training))].split(batch):
                yield shifted(images[rows]), labels[rows]

    steps = epochs * math.ceil(len(training) / batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    train(net.train(), batches(), steps, optimizer, (3e-3, 100, 0.0))
    with torch.no_grad():
        right = net.eval()(images[held_out]).argmax(1) == labels[held_out]
    return right.float().mean().item()


if __name__ == "__main__":
    main()

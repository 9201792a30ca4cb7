#!/usr/bin/env python3
"""Samples a second of the presets' models, here and in PyTorch: PYTHON benches/torch_ddp.py [--rounds N]

PYTHON is one with torch, as .ci/python makes it. The same net, batch and optimizer with 1 and 2 workers, one thread
each: real processes of target/release against DistributedDataParallel over gloo. Both sides take turns; the best round
of each counts, since what else the machine does only ever costs. Data are noise of the presets' shapes, but for the tables of
the project; both sides leave augmentation, evaluation and versions out.
"""

import argparse, json, os, pathlib, random, socket, struct, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE = 300

# preset: configuration, what is set beside it, samples a step, steps
PRESETS = {
    "digits": ("digits", [f"dataset.uri={ROOT / 'datasets/digits/digits.csv'}"], 64, 600),
    "tabular": ("tabular", [f"dataset.uri={ROOT / 'datasets/penguins/penguins.csv'}"], 32, 1500),
    "csv, mlp 64-128-64-10": ("csv", [f"dataset.uri={ROOT / 'datasets/digits/digits.csv'}"], 64, 1500),
    "mnist-cnn": ("mnist-cnn", ["augment.shift=0", "dataset.uri=noise-images-idx3-ubyte"], 64, 120),
    "shakespeare-gpt": ("shakespeare-gpt", ["dataset.uri=noise.txt"], 12, 60),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    rounds = arguments.parse_args().rounds
    for name, (config, settings, batch, steps) in PRESETS.items():
        for workers in (1, 2):
            ours, theirs = [], []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    ours.append(here(pathlib.Path(folder), config, settings, batch, steps, workers))
                theirs.append(torch_group(config, batch, steps, workers))
            ours, theirs = max(ours), max(theirs)
            print(f"{name:26} {workers} workers  here {ours:8.0f}  torch {theirs:8.0f} samples/s  {ours / theirs:5.2f}")


def here(folder, config, settings, batch, steps, workers):
    """From the metrics' own times, the first third of the steps left out."""
    make_noise(folder)
    every = ["train.evaluate_every=0", "checkpoint.every=1h", "export.formats=[]", "run.name=bench", f"run.dir={folder}"]
    length = [f"train.steps={steps}", "schedule.kind=constant", "schedule.warmup_steps=0"]
    command = [ROOT / "target/release/coordinator", "--config", ROOT / f"configs/{config}.toml"]
    command += ["--local-workers", str(workers), "--set", "local.devices=cpu"]
    for setting in settings + every + length:
        command += ["--set", setting]
    subprocess.run(command, cwd=folder, check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL)
    lines = map(json.loads, (folder / "bench/metrics.jsonl").read_text().splitlines())
    times = {line["step"]: line["time"] for line in lines if line["key"] == "train/loss"}
    first = min(step for step in times if step >= steps // 3)
    last = max(times)
    return (last - first) * batch / (times[last] - times[first])


def make_noise(folder):
    noise = random.Random(1)
    images = 2_000
    pixels = struct.pack(">IIII", 0x803, images, 28, 28) + noise.randbytes(images * 784)
    (folder / "noise-images-idx3-ubyte").write_bytes(pixels)
    labels = struct.pack(">II", 0x801, images) + bytes(i % 10 for i in range(images))
    (folder / "noise-labels-idx1-ubyte").write_bytes(labels)
    (folder / "noise.txt").write_text("".join(noise.choices("etaoin shrdlu\n", k=200_000)))


def torch_group(config, batch, steps, workers):
    """The slowest member's rate times the members."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = []
    for rank in range(workers):
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(workers)}
        environment = os.environ | places | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, __file__, "--member", config, str(batch // workers), str(steps)]
        group.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    answers = [member.communicate(timeout=DEADLINE)[0] for member in group]
    if any(member.returncode for member in group):
        sys.exit(f"a member of torch's group failed: {answers}")
    return workers * min(float(answer) for answer in answers)


def member(config, batch, steps):
    """One process of the group: prints its samples a second, the first third of the steps left out."""
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F

    torch.set_num_threads(1)
    torch.manual_seed(int(os.environ["RANK"]))
    dist.init_process_group("gloo")
    net, x, y, clip = net_and_data(config, batch, torch)
    model = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    began = None
    for step in range(steps):
        if step == steps // 3:
            began = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    print((steps - steps // 3) * batch / (time.perf_counter() - began), flush=True)
    dist.barrier()
    # What gloo's threads do while Python ends has been seen to abort the process.
    os._exit(0)


def net_and_data(config, batch, torch):
    nn = torch.nn
    if config == "csv":
        layers = [nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)]
        return nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(batch, 64), torch.randint(10, (batch,)), None
    if config == "digits":
        return cnn(torch, 8, 0.3), torch.randn(batch, 1, 8, 8), torch.randint(10, (batch,)), None
    if config == "tabular":
        return penguins(torch), penguin_rows(batch, torch), torch.randint(3, (batch,)), None
    if config == "mnist-cnn":
        return cnn(torch, 28, 0.25), torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,)), None
    tokens = torch.randint(256, (batch, 65))
    return gpt(torch), tokens[:, :-1].contiguous(), tokens[:, 1:].flatten(), 1.0


def cnn(torch, size, dropout):
    nn = torch.nn
    stages = [nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
    stages += [nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*stages, nn.Linear(64 * (size // 4) ** 2, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 10))


# Of the penguins: what is a number (four, and whether each is missing), and the codes of island, sex and year, each with one
# for what nobody has seen. Embeddings are as wide as `mlp` makes them, min(600, round(1.6 n^0.56)).
NUMBERS, CODES = 8, [4, 4, 4]


def penguins(torch):
    nn = torch.nn

    class Penguins(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [round(1.6 * codes**0.56) for codes in CODES]
            self.embeddings = nn.ModuleList(map(nn.Embedding, CODES, widths))
            layers = [nn.Linear(NUMBERS + sum(widths), 32), nn.ReLU(), nn.Dropout(0.1)]
            layers += [nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3)]
            self.layers = nn.Sequential(*layers)

        def forward(self, x):
            codes = x[:, NUMBERS:].long()
            embedded = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
            return self.layers(torch.cat([x[:, :NUMBERS], *embedded], 1))

    return Penguins()


def penguin_rows(batch, torch):
    codes = [torch.randint(codes, (batch, 1)) for codes in CODES]
    return torch.cat([torch.randn(batch, NUMBERS), *codes], 1)


def gpt(torch, window=64, width=128, heads=4, layers=4, vocabulary=256):
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            shape = (x.shape[0], x.shape[1], heads, width // heads)
            q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.projection(y.transpose(1, 2).reshape(x.shape))
            return x + self.dense(self.norm2(x))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(window, width)
            self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(layers))), nn.LayerNorm(width)

        def forward(self, x):
            y = self.blocks(self.tokens(x) + self.positions.weight[: x.shape[1]])
            return (self.norm(y) @ self.tokens.weight.T).flatten(0, 1)

    return Gpt()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        member(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()

"""Makes optimizers.json: what torch's optimizers do in 100 steps from known gradients.

    pip install torch && python optimizers.py > optimizers.json
"""

import json

import torch

STEPS = 100
START = [0.5, -0.25, 0.125, 1.0, -1.0, 0.75, 0.0, -0.0]


def gradient(step):
    """The same in trainer/tests/optimizers.rs: exact in f64, rounded once."""
    values = [((step * 7919 + i * 104729) % 2001 - 1000) / 500 * 10.0 ** (i % 3 - 2) for i in range(len(START))]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32)


def learning_rate(step):
    return 0.01 if step <= 50 else 0.003


def clip_factor(step):
    return 0.5 if step % 3 == 0 else 1.0


def run(name, make):
    parameter = torch.nn.Parameter(torch.tensor(START, dtype=torch.float32))
    optimizer = make([parameter])
    kept = {}
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        parameter.grad = gradient(step) * clip_factor(step)
        optimizer.step()
        if step in (1, 10, STEPS):
            kept[str(step)] = [float(x) for x in parameter.detach()]
    return {"name": name, "parameters": kept}


CASES = [
    ("sgd", lambda p: torch.optim.SGD(p, lr=0.01)),
    ("sgd weight_decay", lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1)),
    ("sgd momentum", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    ("sgd momentum weight_decay", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1)),
    ("adam", lambda p: torch.optim.Adam(p, lr=0.01)),
    ("adam weight_decay", lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0)),
    ("adamw weight_decay", lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
]

made_by = "trainer/tests/vectors/optimizers.py, torch " + torch.__version__
print(json.dumps({"made_by": made_by, "cases": [run(*case) for case in CASES]}, indent=1))

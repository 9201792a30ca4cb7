"""Makes models.json: logits, losses and gradients of the built-in models as torch computes them, in float64.

    pip install torch && python models.py > models.json

Parameters and images are noise (see `noise`), which trainer/tests/models.rs makes alike. A gradient is told by its sum
and by its product with noise.
"""

import json
import math

import torch
import torch.nn.functional as F
from torch import nn

torch.set_default_dtype(torch.float64)


def noise(length, stream):
    """The same in trainer/tests/support/mod.rs; exact in f32."""
    state, values = stream * 2654435761 % 2**32, []
    for _ in range(length):
        state = (state * 1664525 + 1013904223) % 2**32
        values.append((state >> 8) / 8388608 - 1)
    return torch.tensor(values)


def tokens(length, vocabulary, stream):
    return [int(x) for x in (noise(length, stream) + 1) / 2 * vocabulary]


class Attention(nn.Module):
    def __init__(self, width, heads, rotary):
        super().__init__()
        self.query, self.key, self.value, self.projection = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.rotary = heads, rotary

    def forward(self, x):
        count, window, width = x.shape
        size = width // self.heads

        def split(linear):
            return linear(x).view(count, window, self.heads, size).transpose(1, 2)

        query, key, value = split(self.query), split(self.key), split(self.value)
        if self.rotary:
            query, key = self.turn(query), self.turn(key)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.projection(y.transpose(1, 2).reshape(count, window, width))

    @staticmethod
    def turn(x):
        window, size = x.shape[-2:]
        frequencies = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angles = torch.outer(torch.arange(window).double(), frequencies).repeat(1, 2)
        a, b = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()


class Block(nn.Module):
    def __init__(self, width, heads, rotary):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, rotary)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class Gpt(nn.Module):
    def __init__(self, keys, shape, vocabulary):
        super().__init__()
        width, rotary = keys["width"], keys["positions"] == "rotary"
        self.tokens = nn.Embedding(vocabulary, width)
        if not rotary:
            self.positions = nn.Embedding(shape[0], width)
        self.blocks = nn.ModuleList(Block(width, keys["heads"], rotary) for _ in range(keys["layers"]))
        self.norm = nn.LayerNorm(width)
        if not keys["tied"]:
            self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, x):
        y = self.tokens(x)
        if hasattr(self, "positions"):
            y = y + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            y = block(y)
        weight = self.head.weight if hasattr(self, "head") else self.tokens.weight
        return (self.norm(y) @ weight.T).flatten(0, 1)


class Projection(nn.Module):
    def __init__(self, inputs, outputs, groups):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x):
        return self.norm(self.convolution(x))


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, groups, projects):
        super().__init__()
        self.convolution1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.convolution2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.stride, self.new = stride, outputs - inputs
        if projects and inputs != outputs:
            self.projection = Projection(inputs, outputs, groups)

    def forward(self, x):
        y = self.norm2(self.convolution2(F.relu(self.norm1(self.convolution1(x)))))
        if hasattr(self, "projection"):
            return F.relu(self.projection(x) + y)
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(F.pad(shortcut, (0, 0, 0, 0, 0, self.new)) + y)


class Resnet(nn.Module):
    def __init__(self, keys, image, classes):
        super().__init__()
        width, groups, is_large = keys["width"], keys["groups"], keys["depth"] == 18
        stages, blocks = (4, 2) if is_large else (3, (keys["depth"] - 2) // 6)
        self.stem = nn.Conv2d(image[0], width, 3, 1, 1, bias=False)
        self.stem_norm = nn.GroupNorm(groups, width)
        channels, self.blocks = width, nn.ModuleList()
        for stage in range(stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                self.blocks.append(ResidualBlock(channels, width << stage, stride, groups, is_large))
                channels = width << stage
        self.output = nn.Linear(channels, classes)

    def forward(self, x):
        y = F.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            y = block(y)
        return self.output(y.mean((2, 3)))


class Cnn(nn.Module):
    def __init__(self, keys, image, classes):
        super().__init__()
        widths = [image[0], *keys["channels"]]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(widths, widths[1:]))
        halvings = len(keys["channels"])
        self.hidden = nn.Linear(widths[-1] * (image[1] >> halvings) * (image[2] >> halvings), keys["hidden"])
        self.output = nn.Linear(keys["hidden"], classes)

    def forward(self, x):
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        return self.output(F.relu(self.hidden(x.flatten(1))))


class Mlp(nn.Module):
    def __init__(self, keys, inputs, classes, categories=()):
        super().__init__()
        self.categories = categories
        self.numbers = [i for i in range(inputs[0]) if i not in dict(categories)]
        self.embeddings = nn.ModuleList(nn.Embedding(codes, keys["embedding"]) for _, codes in categories)
        widths = [len(self.numbers) + len(categories) * keys.get("embedding", 0), *keys["hidden"]]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, x):
        codes = [((x[:, place] + 1) / 2 * codes).long() for place, codes in self.categories]
        embedded = [embedding(code) for embedding, code in zip(self.embeddings, codes)]
        x = torch.cat([x[:, self.numbers], *embedded], 1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.output(x)


def our_name(module, name):
    """burn calls a normalisation's weights gamma and beta."""
    holder = module.get_submodule(name.rpartition(".")[0])
    if isinstance(holder, (nn.LayerNorm, nn.GroupNorm)):
        return name.replace("weight", "gamma").replace("bias", "beta")
    return name


def case(name, make, keys, shape, outputs, count, categories=()):
    torch.manual_seed(0)
    model = make(keys, shape, outputs, *([categories] if categories else []))
    names = []
    for index, (their_name, parameter) in enumerate(model.named_parameters()):
        names.append(our_name(model, their_name))
        parameter.data = 0.5 * noise(parameter.numel(), index).view(parameter.shape)
    length = count * math.prod(shape)
    if make is Gpt:
        x, y = tokens(length, outputs, 1000), tokens(length, outputs, 1001)
        logits = model(torch.tensor(x).view(count, *shape))
    else:
        x, y = [], [(i * 7 + 3) % outputs for i in range(count)]
        logits = model(noise(length, 1000).view(count, *shape))
    weights = torch.tensor(keys["class_weights"]) if "class_weights" in keys else None
    smoothing = keys.get("label_smoothing", 0.0)
    loss = F.cross_entropy(logits, torch.tensor(y), weights, label_smoothing=smoothing, reduction="sum")
    loss.backward()
    gradients = [
        [float(p.grad.sum()), float((p.grad.flatten() * noise(p.numel(), 2000 + i)).sum())]
        for i, p in enumerate(model.parameters())
    ]
    return {
        "name": name, "kind": make.__name__.lower(), "keys": keys, "input": shape, "outputs": outputs,
        "categories": categories, "count": count, "x": x, "y": y, "parameters": names, "logits": logits.flatten().tolist(),
        "loss": loss.item(), "gradients": gradients,
    }


def gpt(**keys):
    return {"layers": 2, "heads": 2, "width": 8, **keys}


CASES = [
    ("learned positions, tied", Gpt, gpt(positions="learned", tied=True), [5], 7, 3),
    ("rotary positions, untied", Gpt, gpt(positions="rotary", tied=False), [6], 5, 2),
    ("CIFAR, odd sizes", Resnet, {"depth": 8, "width": 2, "groups": 1}, [3, 9, 7], 4, 3),
    ("CIFAR, two blocks a stage", Resnet, {"depth": 14, "width": 4, "groups": 2}, [1, 8, 8], 3, 2),
    ("ImageNet, small stem", Resnet, {"depth": 18, "width": 2, "groups": 2}, [2, 11, 8], 3, 2),
    ("one channel", Cnn, {"channels": [3], "hidden": 5}, [1, 6, 6], 3, 4),
    ("colour, odd sizes", Cnn, {"channels": [3, 4], "hidden": 5, "label_smoothing": 0.1}, [3, 9, 7], 4, 3),
    ("smoothed", Mlp, {"hidden": [6], "label_smoothing": 0.1}, [4], 3, 5),
    ("weighted", Mlp, {"hidden": [6], "class_weights": [0.5, 2.0, 1.25]}, [4], 3, 5),
    ("categories", Mlp, {"hidden": [6], "embedding": 3}, [5], 3, 6, [(1, 4), (3, 2)]),
    ("both", Mlp, {"hidden": [6], "class_weights": [0.5, 2.0, 1.25], "label_smoothing": 0.2}, [4], 3, 5),
]

made_by = "trainer/tests/vectors/models.py, torch " + torch.__version__
print(json.dumps({"made_by": made_by, "cases": [case(*each) for each in CASES]}, indent=1))

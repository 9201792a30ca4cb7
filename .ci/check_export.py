"""An exported cnn in other people's hands: numpy and torch read it, and torch's forward pass gives our outputs.

    python check_export.py RUN_DIR
"""

import csv
import json
import pathlib
import subprocess
import sys

import numpy
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file as load_torch

run = pathlib.Path(sys.argv[1])
model = run / "exports" / "safetensors" / "model.safetensors"

with safe_open(model, "numpy") as opened:
    metadata = opened.metadata()
labels = json.loads(metadata["labels"])
arrays, tensors = load_numpy(model), load_torch(model)
assert arrays.keys() == tensors.keys()
for name, array in arrays.items():
    assert numpy.array_equal(array, tensors[name].numpy()), name
assert arrays["hidden.weight"].shape[0] == arrays["hidden.bias"].shape[0], "Linear weights are [out, in]"

rows = list(csv.DictReader(open("datasets/digits/digits.csv", newline="")))[:200]
pixels = [[float(value) for name, value in row.items() if name != "label"] for row in rows]
x = torch.tensor(pixels).reshape(len(rows), 1, 8, 8)
normalisation = json.loads(metadata["normalisation"])
print("normalisation in the metadata:", json.dumps(normalisation)[:100], "...")
with torch.no_grad():
    stage = 0
    while f"convolutions.{stage}.weight" in tensors:
        weight, bias = tensors[f"convolutions.{stage}.weight"], tensors[f"convolutions.{stage}.bias"]
        x = F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding="same")), 2)
        stage += 1
    x = F.relu(F.linear(x.flatten(1), tensors["hidden.weight"], tensors["hidden.bias"]))
    logits = F.linear(x, tensors["output.weight"], tensors["output.bias"])

table = pathlib.Path(run) / "two-hundred.csv"
with open(table, "w", newline="") as file:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
command = ["target/release/trainer", "predict", str(run), "--input", str(table), "--output", "json"]
answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
predictions = [json.loads(line) for line in answer.splitlines() if line.strip()]
if len(predictions) == 1 and isinstance(predictions[0], (list, dict)):
    whole = predictions[0]
    predictions = whole if isinstance(whole, list) else whole["predictions"]
assert len(predictions) == len(rows)

ours = torch.tensor([p["logits"] for p in predictions])
difference = (ours - logits).abs().max().item()
hits = sum(p["label"] == row["label"] for p, row in zip(predictions, rows))
print(f"logits differ by {difference:.2e} at most; {hits} of {len(rows)} labels are right")
assert difference < 1e-5, difference
assert [labels[i] for i in logits.argmax(1)] == [p["label"] for p in predictions]

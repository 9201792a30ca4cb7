"""The example's GRU in PyTorch's hands: torch.nn.GRU with the exported tensors gives our logits.

    python check_own_model.py RUN_DIR EXPORT_DIR PREDICTIONS TABLE

PREDICTIONS is what `own-trainer predict RUN_DIR --input TABLE --output json` printed.
"""

import csv
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

run, export, predictions, table = map(pathlib.Path, sys.argv[1:])
tensors = load_file(export / "model.safetensors")
rows = list(csv.DictReader(open(table, newline="")))
pixels = [[float(value) for name, value in row.items() if name != "label"] for row in rows]

# torch stacks its gates in the order reset, update, new.
gates = ["reset_gate", "update_gate", "new_gate"]
stacked = lambda part, kind: torch.cat([tensors[f"gru.{gate}.{part}_transform.{kind}"] for gate in gates])
hidden, columns = tensors["gru.new_gate.input_transform.weight"].shape
gru = torch.nn.GRU(columns, hidden, batch_first=True)
with torch.no_grad():
    gru.weight_ih_l0.copy_(stacked("input", "weight"))
    gru.weight_hh_l0.copy_(stacked("hidden", "weight"))
    gru.bias_ih_l0.copy_(stacked("input", "bias"))
    gru.bias_hh_l0.copy_(stacked("hidden", "bias"))
    states, _ = gru(torch.tensor(pixels).reshape(len(rows), -1, columns))
    logits = torch.nn.functional.linear(states[:, -1], tensors["output.weight"], tensors["output.bias"])

ours = torch.tensor([json.loads(line)["logits"] for line in predictions.read_text().splitlines()])
difference = (ours - logits).abs().max().item()
print(f"{run.name}: logits of {len(rows)} images differ from torch's by {difference:.2e} at most")
assert ours.shape == logits.shape and difference < 1e-4, difference

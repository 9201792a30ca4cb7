"""Draws the loss curves of a run as an SVG, with nothing but the standard library.

    python docs/loss.py runs/digits-1 > docs/loss.svg
"""

import json
import pathlib
import sys

run = pathlib.Path(sys.argv[1])
metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 320, 60, 44, 34, 20
CURVES = {"train/loss": ("training, every tenth step", "#d9480f"), "validation/loss": ("held out, every epoch", "#1864ab")}

points = {key: [(m["step"], m["value"]) for m in metrics if m["key"] == key] for key in CURVES}
last = max(step for curve in points.values() for step, _ in curve)
highest = max(value for curve in points.values() for _, value in curve)
x = lambda step: LEFT + step / last * (WIDTH - LEFT - RIGHT)
y = lambda value: HEIGHT - BOTTOM - value / highest * (HEIGHT - BOTTOM - TOP)

print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">')
print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
for tick in range(5):
    value = highest * tick / 4
    print(f'<line x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}" stroke="#e9ecef"/>')
    print(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#495057">{value:.2f}</text>')
    step = last * tick // 4
    print(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" fill="#495057">{step}</text>')
print(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="#495057">step</text>')
for number, (key, (name, colour)) in enumerate(CURVES.items()):
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points[key])
    print(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
    print(f'<text x="{LEFT + 10 + 260 * number}" y="20" fill="{colour}">{key}: {name}</text>')
print("</svg>")

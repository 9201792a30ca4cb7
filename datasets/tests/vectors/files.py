"""Writes files/ and files.json: small images and tables as Pillow, pyarrow and polars write them, and what is in them,
for tests/foreign.rs and tests/mutated.rs.

    python -m venv v && v/bin/pip install pillow==13.0.0 pyarrow==26.0.1 polars==2.1.0 && v/bin/python files.py
"""

import datetime
import json
import math
import pathlib

import polars
import pyarrow
import pyarrow.parquet
from PIL import Image

FILES = pathlib.Path(__file__).parent / "files"


def images():
    """Modes of PNG and JPEG: their pixels as rows of [red, green, blue]."""
    waves = [(x * 16 % 256, y * 16 % 256, int(128 + 100 * math.sin((x + 2 * y) / 5))) for y in range(16) for x in range(16)]
    colour = Image.new("RGB", (16, 16))
    colour.putdata(waves)
    clear = colour.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((16, 16)))
    written = {
        "colour.png": (colour, {}),
        "palette.png": (colour.quantize(16), {}),
        "grey.png": (colour.convert("L"), {"optimize": True}),
        "clear.png": (clear, {}),
        "one-bit.png": (colour.convert("1"), {}),
        "colour.jpg": (colour, {"quality": 90}),
        "progressive.jpg": (colour, {"quality": 90, "progressive": True, "subsampling": "4:4:4"}),
        "grey.jpg": (colour.convert("L"), {"quality": 90}),
    }
    found = {}
    for name, (image, options) in written.items():
        image.save(FILES / name, **options)
        read = Image.open(FILES / name).convert("RGB")
        found[name] = [list(pixel) for pixel in read.get_flattened_data()]
    return found


def tables():
    """The same 50 rows, in several row groups; every seventh number is missing."""
    rows = range(50)
    columns = {
        "number": [None if row % 7 == 6 else row / 4 for row in rows],
        "count": list(rows),
        "kind": [["red", "green", "bl\u00fce"][row % 3] for row in rows],
        "day": [datetime.date(2024, 1, 1) + datetime.timedelta(days=row % 4) for row in rows],
        "flag": [row % 2 == 0 for row in rows],
        "label": [["no", "yes"][row % 5 == 0] for row in rows],
    }
    table = pyarrow.table(columns)
    for compression in ["none", "snappy", "gzip", "zstd"]:
        pyarrow.parquet.write_table(table, FILES / f"{compression}.parquet", compression=compression, row_group_size=20)
    plain = {"use_dictionary": False, "data_page_version": "2.0", "compression": "none"}
    pyarrow.parquet.write_table(table, FILES / "version-2.parquet", row_group_size=7, **plain)
    polars.DataFrame(columns).write_parquet(FILES / "polars.parquet")
    text = {**columns, "day": [str(day) for day in columns["day"]], "flag": [str(flag).lower() for flag in columns["flag"]]}
    return [dict(zip(text, row)) for row in zip(*text.values())]


def main():
    FILES.mkdir(exist_ok=True)
    found = {"images": images(), "rows": tables()}
    (FILES.parent / "files.json").write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")


main()

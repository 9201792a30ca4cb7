"""Writes dvc.json: what DVC says of some folders, for tests/dvc.rs.

    python -m venv v && v/bin/pip install dvc==3.67.1 && PATH=$PWD/v/bin:$PATH python dvc.py

Needs nothing else. The result is kept, so a test run needs no DVC.
"""

import json
import pathlib
import subprocess
import tempfile

# Folder -> path -> content: a text, or [a text, how often].
FOLDERS = {
    "order": {"sub/c.txt": "c\n", "a.txt": "a\n", "sub-1.txt": "a\n", "sub.txt": "", "B": "b", "_": "b"},
    "names": {
        "é.txt": "composed",
        "e\u0301.txt": "decomposed",
        "😀/日本.csv": "x\n1\n",
        'quote".txt': "q",
        "back\\slash": "b",
        "tab\tand\nline": "t",
        "del\x7f\x01\x1b": "d",
        "\u2028\uffff": "u",
        "&<>'/%20 +": "p",
        " ": "space",
    },
    "hidden": {".a": "1", ".b/c": "2", ".git/config": "left out", ".hg/x": "left out", "d/.git/e": "left out", "d/.gitignore": "kept"},
    "deep": {"/".join("abcdefghijklmnop"): "deep", "a/b.txt": "b"},
    "large": {"megabytes": ["0123456789abcdef", 200_000], "exact": ["x", 1 << 20], "more": ["x", (1 << 20) + 1]},
    "bytes": {"crlf": "a\r\nb\r\n", "bom": "\ufeffa,b\n", "nul": "\0\0"},
}


def main():
    version = subprocess.run(["dvc", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    folders = []
    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
        for name, files in FOLDERS.items():
            for path, content in files.items():
                text, times = (content, 1) if isinstance(content, str) else content
                place = root / name / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(text.encode() * times)
            subprocess.run(["dvc", "add", "-q", name], cwd=root, check=True)
            fields = dict(line.strip(" -").split(": ") for line in (root / f"{name}.dvc").read_text().splitlines()[1:])
            digest = fields["md5"]
            listing = (root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).read_text()
            folders.append({"name": name, "files": files, "digest": digest, "bytes": int(fields["size"]), "listing": listing})
    out = pathlib.Path(__file__).with_name("dvc.json")
    out.write_text(json.dumps({"dvc": version, "folders": folders}, indent=1) + "\n")


main()

#!/usr/bin/env python3
"""Holds the documents against the repository: links, anchors, flags, configuration keys, paths, names, crates.

    .ci/check_docs.py [--bin-dir target/release]

Looks at every tracked *.md file. Of the programs that are in the folder, the flags that documents show are looked up in
their --help. Programs that aren't there are reported, and are a failure where --bin-dir is given. Prints FILE:LINE: MESSAGE for
each finding and exits with 1 if there is any.
"""

import argparse
import pathlib
import re
import subprocess
import sys
from functools import cache, cached_property

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = {name: name for name in ("coordinator", "worker", "trainer", "datasets")}
# Programs of the guide to a model of one's own: the same command lines.
PROGRAMS |= {"own-worker": "worker", "own-trainer": "trainer"}
# Flags of other programs that stand alone in backticks.
FOREIGN_FLAGS = {"--features", "--sanitizer", "--seed", "--case", "--seeds", "--trace", "--minutes"}
# What follows a section's name in a file's name.
SUFFIXES = {"json", "jsonl", "toml", "md", "rs", "py", "csv", "yml", "safetensors"}
HELP_SECONDS = 5


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    # Other checkouts may have staged a removal: what isn't there can't be read.
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


class Page:
    """A document, with each line's kind: `prose` or `code` (fenced or indented)."""

    def __init__(self, name):
        self.name = name
        self.lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        self.kinds = []
        fence, was_blank, was_code, in_list = None, True, False, False
        for line in self.lines:
            mark = re.match(r"\s*(```+|~~~+)", line)
            if fence:
                self.kinds.append("code")
                if mark and mark[1].startswith(fence):
                    fence = None
                continue
            if mark:
                fence = mark[1]
                self.kinds.append("code")
                continue
            # Text that goes on in a list is indented, too: code is indented by four more there.
            if line.strip() and not line.startswith(" "):
                in_list = bool(re.match(r"([-*]|\d+\.) ", line))
            indent = 7 if in_list else 4
            is_code = line.startswith(" " * indent) and (was_blank or was_code)
            self.kinds.append("code" if is_code else "prose")
            was_code = is_code or (was_code and not line.strip())
            was_blank = not line.strip()

    def prose(self):
        return [(number, line) for number, (line, kind) in enumerate(zip(self.lines, self.kinds), 1) if kind == "prose"]

    def code(self):
        return [(number, line) for number, (line, kind) in enumerate(zip(self.lines, self.kinds), 1) if kind == "code"]

    SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\n)[^`])+)\1(?!`)")

    def text(self):
        """The prose, with empty lines in the place of code."""
        return "\n".join(line if kind == "prose" else "" for line, kind in zip(self.lines, self.kinds))

    def spans(self):
        """Inline code, which may go over the end of a line: (line number, text)."""
        text = self.text()
        for match in self.SPAN.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match[2].split())

    def links(self):
        """Targets of links outside of inline code: (line number, target)."""
        text = self.SPAN.sub(lambda match: "\n" * match[0].count("\n"), self.text())
        for match in re.finditer(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", text, re.M):
            yield text.count("\n", 0, match.start()) + 1, match[1] or match[2]

    @cached_property
    def anchors(self):
        """The anchors that GitHub gives to the headings."""
        seen, anchors = {}, set()
        for _, line in self.prose():
            heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
            for anchor in re.findall(r'<a (?:id|name)="([^"]+)"', line):
                anchors.add(anchor)
            if not heading:
                continue
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            text = re.sub(r"(\*\*?)(\S.*?\S|\S)\1", r"\2", text)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            anchors.add(f"{slug}-{count}" if count else slug)
        return anchors


class Programs:
    """What the programs' --help say."""

    def __init__(self, folder):
        self.folder = folder
        self.missing = set()

    @cache
    def help(self, words):
        program = self.folder / words[0]
        if not program.is_file():
            self.missing.add(words[0])
            return None
        said = subprocess.run([program, *words[1:], "--help"], capture_output=True, text=True, timeout=HELP_SECONDS)
        text = said.stdout
        flags = set(re.findall(r"^\s+(?:-\w, )?(--[a-z][a-z0-9-]*)", text, re.M)) | {"--help", "--version"}
        commands = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.M)
        return flags, set(re.findall(r"^  ([a-z-]+)", commands[1], re.M)) if commands else set()

    def all_flags(self):
        """The flags of all programs and their subcommands; None if a program isn't there."""
        flags, waiting = set(), [(name,) for name in sorted(set(PROGRAMS.values()))]
        while waiting:
            words = waiting.pop()
            said = self.help(words)
            if said is None:
                continue
            flags |= said[0]
            waiting += [(*words, command) for command in said[1] - {"help"}]
        return None if self.missing else flags

    def check(self, command, say):
        """Holds the flags of one command line against the program's --help."""
        words = command.split()
        bases = [word.rsplit("/", 1)[-1] for word in words]
        start = next((at for at, base in enumerate(bases) if base in PROGRAMS and "cargo" not in bases[:at]), None)
        if start is None or any(base in ("-p", "--bin") for base in bases[:start]):
            return
        path, is_subcommand = (PROGRAMS[bases[start]],), True
        for word in words[start + 1 :]:
            said = self.help(path)
            if said is None:
                return
            if word.startswith("--"):
                flag = word.split("=")[0]
                if flag == "--":
                    return
                if flag not in said[0]:
                    say(f"`{' '.join(path)}` has no flag {flag}")
            elif is_subcommand and word in said[1]:
                path = (*path, word)
                continue
            is_subcommand = False


def commands(text):
    """The single commands of a line of a shell, without comments and what only a document has."""
    text = re.sub(r"(^|\s)#.*", " ", text)
    text = re.sub(r"^\s*\$ ", "", text)
    text = re.sub(r"[\[\]()`]", " ", text)
    return re.split(r"&&|\|\||;|(?<=\s)[|&](?=\s|$)", text)


def code_lines(page):
    """Lines of code, joined where a backslash ends them."""
    joined, began = "", 0
    for number, line in page.code():
        began = began if joined else number
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        yield began, joined
        joined = ""


def configuration_keys():
    """(section, key) of every key, and where they are listed."""
    place = next(name for name in ("docs/configuration.md", "configs/KEYS.md") if (ROOT / name).is_file())
    keys, section = set(), None
    for line in (ROOT / place).read_text(encoding="utf-8").splitlines():
        heading = re.match(r"#+ `\[(\w+)\]`", line)
        if heading:
            section = heading[1]
        elif row := re.match(r"\| `(\w+)` \|", line):
            keys.add((section, row[1]))
        elif reserved := re.match(r"- `(\w+)\.(\w+)`:", line):
            keys.add((reserved[1], reserved[2]))
    if len(keys) < 20:
        sys.exit(f"check_docs: {place} lists {len(keys)} keys: is its form another one?")
    return keys, place


def crate_sources(files):
    """The text of each crate's Rust files, by the crate's name in Rust."""
    texts = {}
    for name in files:
        folder, _, rest = name.partition("/src/")
        if rest and name.endswith(".rs") and folder.count("/") <= 1:
            crate = folder.replace("/", "_").replace("-", "_")
            stem = rest.rsplit("/", 1)[-1].removesuffix(".rs")
            texts.setdefault(crate, []).append(f"mod {stem};\n" + (ROOT / name).read_text(encoding="utf-8"))
            texts[crate] += [f"mod {part};" for part in rest.split("/")[:-1]]
    return {crate: "\n".join(parts) for crate, parts in texts.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin-dir", type=pathlib.Path, help="folder of the programs, all of which must be there")
    given = parser.parse_args().bin_dir
    programs = Programs((given or ROOT / "target/release").resolve())
    files = tracked()
    pages = {name: Page(name) for name in files if name.endswith(".md")}
    folders = {name.split("/")[0] for name in files if "/" in name}
    keys, keys_place = configuration_keys()
    sections = {section for section, _ in keys}
    sources = crate_sources(files)
    flags = programs.all_flags()
    findings = set()

    for name, page in pages.items():
        say = lambda number, message: findings.add((name, number, message))
        check_links(page, pages, say)
        is_guide = name == "README.md" or name.startswith("docs/")
        for number, text in page.spans():
            check_span(text, name, keys, sections, folders, sources, lambda message: say(number, message), keys_place)
            if is_guide or name == "CHANGELOG.md":
                for command in commands(text):
                    programs.check(command, lambda message: say(number, message))
            alone = re.match(r"(--[a-z][a-z-]*)", text)
            if is_guide and flags is not None and alone and alone[1] not in flags | FOREIGN_FLAGS:
                say(number, f"no program has the flag {alone[1]}")
        for number, line in code_lines(page):
            if is_guide:
                for command in commands(line):
                    programs.check(command, lambda message: say(number, message))
            for section, key in re.findall(r"--set '?(\w+)\.(\w+)=", line):
                # A task of one's own has keys of its own.
                if section != "model" and (section, key) not in keys:
                    say(number, f"{keys_place} has no key {section}.{key}")

    check_crates(pages, files, lambda name, message: findings.add((name, 1, message)))
    for name, number, message in sorted(findings):
        print(f"{name}:{number}: {message}")
    for program in sorted(programs.missing):
        print(f"check_docs: {program} is not in {programs.folder}: its flags were not checked")
    if findings or (given and programs.missing):
        sys.exit(1)
    print(f"check_docs: {len(pages)} documents are sound")


def check_links(page, pages, say):
    folder = (ROOT / page.name).parent
    for number, target in page.links():
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (folder / path).resolve() if path else ROOT / page.name
        if not place.exists() or not place.is_relative_to(ROOT):
            say(number, f"the link {target} leads nowhere")
            continue
        other = pages.get(str(place.relative_to(ROOT)))
        if anchor and other and anchor not in other.anchors:
            say(number, f"the link {target} leads to no heading of {other.name}")


def check_crates(pages, files, say):
    """README and ARCHITECTURE name every crate; ARCHITECTURE's table of directions is that of the test."""
    for manifest in files:
        folder = manifest.removesuffix("/Cargo.toml")
        if folder == manifest or folder.count("/") > (folder == "trainer/cli"):
            continue
        if not re.search(rf"^    (.*, )?{folder}/", "\n".join(pages["README.md"].lines), re.M):
            say("README.md", f"the list of folders has no {folder}/")
        if f"`{folder}`" not in pages["ARCHITECTURE.md"].text():
            say("ARCHITECTURE.md", f"the crate `{folder}` is not named")
    test = (ROOT / "sim/tests/layering.rs").read_text(encoding="utf-8")
    table = test[test.index("const DIRECTIONS") : test.index("];", test.index("const DIRECTIONS"))]
    shown = {}
    for line in pages["ARCHITECTURE.md"].lines:
        row = re.fullmatch(r"\| (`.*`) \| (nothing in-house|`[a-z-]+`(?:, `[a-z-]+`)*) \|", line)
        for crate in re.findall(r"`([^`]+)`", row[1]) if row else []:
            shown[crate.replace("trainer/cli", "trainer-cli")] = set(re.findall(r"`([^`]+)`", row[2]))
    for crate, allowed in re.findall(r'\(\s*"([a-z-]+)",\s*&\[([^\]]*)\]', table):
        allowed = set(re.findall(r'"([a-z-]+)"', allowed))
        if shown.get(crate) != allowed:
            say("ARCHITECTURE.md", f"`{crate}` may import {sorted(allowed)} by sim/tests/layering.rs, not {sorted(shown.get(crate, []))}")


def check_span(text, page, keys, sections, folders, sources, say, keys_place):
    """Keys, paths and Rust names in backticks."""
    if key := re.match(r"(?:--set '?)?([a-z]+)\.([a-z0-9_]+)(?=$|[ =])", text):
        section, name = key[1], key[2]
        if section in sections and name not in SUFFIXES and (section, name) not in keys:
            say(f"{keys_place} has no key {section}.{name}")
    if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)+/?", text):
        parts = text.strip("/").split("/")
        placeholder = any(re.fullmatch(r"[A-Z_]{3,}", part.split(".")[0]) and not (ROOT / text).exists() for part in parts)
        here = (ROOT / page).parent
        if parts[0] in folders and not placeholder:
            found = any(list(base.glob(text.strip("/"))) for base in (ROOT, here))
            if not found:
                say(f"there is no {text} in the repository")
    if re.fullmatch(r"[a-z_]+(::\w+)+", text):
        crate, *names = text.split("::")
        for name in names if crate in sources else []:
            if not re.search(rf"\b{name}\b", sources[crate]):
                say(f"{crate} has no {name}, as `{text}` says")


if __name__ == "__main__":
    main()

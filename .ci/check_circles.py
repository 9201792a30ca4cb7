#!/usr/bin/env python3
"""No circle between the files of a crate, but for a parent with its children: .ci/check_circles.py [CRATE ...]

A file depends on the modules that it names by `crate::`, `super::` or by the name of its own child. A child may use its parent and
a parent its children; any other circle ends the check with exit code 1 and the files in it.
"""

import pathlib, re, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = re.compile(r'//[^\n]*|r#+"(?:.|\n)*?"#+|"(?:\\[\s\S]|[^"\\])*"')
USE = re.compile(r"\b(?:pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"\b((?:crate|super|self)(?:::\w+)+)")


def crates():
    for manifest in sorted(ROOT.glob("*/Cargo.toml")) + sorted(ROOT.glob("*/*/Cargo.toml")):
        source = manifest.parent / "src"
        if source.is_dir() and manifest.relative_to(ROOT).parts[0] not in ("target", "fuzz", "loom"):
            yield manifest.parent


def module(source, path):
    """The module that a file is, as a tuple of names; None for a binary's own root."""
    parts = path.relative_to(source).with_suffix("").parts
    if parts[0] == "bin":
        return None
    if parts[-1] in ("mod", "lib", "main"):
        parts = parts[:-1]
    return parts


def flattened(tree):
    """`a::{b, c::{d, e}}` as a::b, a::c::d, a::c::e."""
    tree = re.sub(r"\s+", "", re.sub(r"\bas\s+\w+", "", tree))
    opening = tree.find("{")
    if opening < 0:
        return [tree]
    prefix, depth, part, parts = tree[:opening], 0, "", []
    for letter in tree[opening + 1 : tree.rfind("}")]:
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
            continue
        depth += (letter == "{") - (letter == "}")
        part += letter
    parts.append(part)
    return [prefix + end for part in parts if part for end in flattened(part)]


def without_tests(text):
    """Up to the first module of unit tests, which stands last in a file."""
    found = re.search(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*mod\s+\w+\s*[{;]", text)
    return text[: found.start()] if found else text


def edges(source):
    files = {}
    for path in sorted(source.rglob("*.rs")):
        name = module(source, path)
        if name is not None and path.stem != "tests" and "tests" not in path.relative_to(source).parts[:-1]:
            files[name] = path
    graph = {name: set() for name in files}
    for name, path in files.items():
        text = without_tests(CODE.sub("", path.read_text()))
        paths = [end for use in USE.findall(text) for end in flattened(use)]
        paths += PATH.findall(USE.sub("", text))
        for word in paths:
            parts = word.split("::")
            base = name
            if parts[0] == "crate":
                base = ()
            elif parts[0] == "super":
                base = name[:-1]
                while len(parts) > 1 and parts[1] == "super":
                    base, parts = base[:-1], parts[1:]
            elif parts[0] != "self" and name + (parts[0],) not in files:
                continue
            elif parts[0] != "self":
                parts = ["self"] + parts
            target = base
            for part in parts[1:]:
                if target + (part,) not in files:
                    break
                target += (part,)
            if target != name and target in files:
                graph[name].add(target)
    return files, graph


def is_family(one, other):
    """Whether one is the other's parent, near or far."""
    return one == other[: len(one)] or other == one[: len(other)]


def circles(graph):
    """Strongly connected parts with more than one file, parents and children apart."""
    graph = {name: {to for to in names if not is_family(name, to)} for name, names in graph.items()}
    index, low, stack, on, found, counter = {}, {}, [], set(), [], [0]

    def visit(name):
        index[name] = low[name] = counter[0]
        counter[0] += 1
        stack.append(name)
        on.add(name)
        for to in sorted(graph[name]):
            if to not in index:
                visit(to)
                low[name] = min(low[name], low[to])
            elif to in on:
                low[name] = min(low[name], index[to])
        if low[name] == index[name]:
            part = []
            while not part or part[-1] != name:
                part.append(stack.pop())
                on.discard(part[-1])
            if len(part) > 1:
                found.append(sorted(part))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found, graph


def main():
    sys.setrecursionlimit(10_000)
    wanted, bad = set(sys.argv[1:]), 0
    for crate in crates():
        name = str(crate.relative_to(ROOT))
        if wanted and name not in wanted:
            continue
        files, graph = edges(crate / "src")
        for part in circles(graph)[0]:
            bad += 1
            print(f"{name}: a circle of {len(part)} files:")
            for one in part:
                uses = sorted("::".join(to) or "lib" for to in circles(graph)[1][one] if to in part)
                print(f"  {files[one].relative_to(ROOT)} uses {', '.join(uses)}")
    if bad:
        sys.exit(1)
    print("no circle between the files of any crate")


if __name__ == "__main__":
    main()

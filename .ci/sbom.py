#!/usr/bin/env python3
"""Writes the bill of materials of the programs: CycloneDX 1.6, from `cargo metadata` and Cargo.lock.

    .ci/sbom.py OUT.json

It lists what the programs are built from on Linux, tests and benches left out, each crate with its version, licence, the
SHA-256 of what the registry serves and what it depends on. The same Cargo.lock gives the same bytes.
"""

import json
import subprocess
import sys
import tomllib
import uuid

PROGRAMS = ["coordinator", "worker", "trainer-cli", "datasets"]
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def metadata():
    words = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    return json.loads(subprocess.check_output(words))


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def main():
    found = metadata()
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    with open("Cargo.lock", "rb") as lock:
        locked = tomllib.load(lock)["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}

    def needs(identity):
        deps = nodes[identity]["deps"]
        return sorted({dep["pkg"] for dep in deps if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])})

    members = [packages[member] for member in found["workspace_members"]]
    programs = sorted(member["id"] for member in members if member["name"] in PROGRAMS)
    reached, waiting = set(), list(programs)
    while waiting:
        identity = waiting.pop()
        if identity not in reached:
            reached.add(identity)
            waiting.extend(needs(identity))

    def component(package):
        entry = {
            "type": "application" if package["id"] in programs else "library",
            "bom-ref": package["id"],
            "name": package["name"],
            "version": package["version"],
            "scope": "required",
        }
        if package["license"]:
            # "MIT/Apache-2.0" is how expressions were written once.
            entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        elif package["license_file"]:
            entry["licenses"] = [{"license": {"name": f"in its file {package['license_file']}"}}]
        checksum = checksums.get((package["name"], package["version"]))
        if checksum:
            entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        # What isn't published must not be taken for a crate of the same name that is.
        if package["source"] == REGISTRY:
            entry["purl"] = purl(package)
        return entry

    version = next(member["version"] for member in members if member["name"] == "coordinator")
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "bonfire", "name": "bonfire", "version": version}},
        "components": [component(packages[identity]) for identity in sorted(reached)],
        "dependencies": [{"ref": "bonfire", "dependsOn": programs}]
        + [{"ref": identity, "dependsOn": needs(identity)} for identity in sorted(reached)],
    }
    # Paths of this machine are nobody else's business.
    text = json.dumps(document, indent=1).replace(found["workspace_root"], "")
    serial = uuid.uuid5(uuid.NAMESPACE_OID, text)
    text = text.replace('"version": 1,', f'"serialNumber": "urn:uuid:{serial}",\n "version": 1,', 1)
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(text + "\n")
    print(f"{len(reached)} crates in {sys.argv[1]}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Holds a bill of materials against CycloneDX's own schema, and looks for crates that the programs surely have.

    .ci/check_sbom.py BOM.json
"""

import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        text = file.read()
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    document = json.loads(text)
    names = {component["name"] for component in document["components"]}
    for name in ["burn", "tokio", "rustls", "coordinator", "worker"]:
        assert name in names, f"{name} is missing"
    for name in ["proptest", "assert_cmd"]:
        assert name not in names, f"{name} is of the tests alone"
    known = {component["bom-ref"] for component in document["components"]} | {"bonfire"}
    for entry in document["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= known, entry["ref"]
    unlicensed = [component["name"] for component in document["components"] if "licenses" not in component]
    assert not unlicensed, f"without a licence: {unlicensed}"
    print(f"{len(names)} crates, valid CycloneDX 1.6")


if __name__ == "__main__":
    main()

"""Checks manifests with the schema of their kind, strictly.

Reads from standard input a JSON list of texts in YAML, of one or more manifests each. Prints for each text what is wrong
with it, line by line, and its manifests. Arguments: the versions of Kubernetes that have to take it."""

import json
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = sys.argv[1:]


def paths(value, path=""):
    """Of everything in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, f"{path}[{index}]")
    else:
        yield path


def check_monitoring(manifest):
    # Takes seconds.
    from cloudcoil.models.prometheus_operator import v1

    read = getattr(v1, manifest["kind"]).model_validate(manifest)
    # The models leave out what they do not know, and say nothing.
    known = set(paths(read.model_dump(by_alias=True, mode="json")))
    unknown = sorted(set(paths(manifest)) - known)
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")


def check_compose(manifest):
    with open(f"{sys.path[1]}/compose/config/compose_spec.json") as file:
        jsonschema.validate(manifest, json.load(file))


def check(manifest):
    if "services" in manifest:
        check_compose(manifest)
        return
    if manifest["apiVersion"].startswith("monitoring.coreos.com/"):
        check_monitoring(manifest)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def result(text):
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    wrong = []
    for manifest in manifests:
        try:
            check(manifest)
        except Exception as error:  # Each library has its own.
            name = manifest.get("metadata", {}).get("name", "")
            wrong.append(f"{manifest.get('kind', 'compose')} {name}: {error}")
    return {"wrong": "\n".join(wrong), "manifests": manifests}


json.dump([result(text) for text in json.load(sys.stdin)], sys.stdout)

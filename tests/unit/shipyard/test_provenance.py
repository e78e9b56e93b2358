"""The SLSA v1 predicate: complete, of the right types, and never with a digest that is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shipyard import provenance
from shipyard.artifacts import Artifact, Commit, Part
from shipyard.provenance import Build, Resource

COMMIT = Commit("a" * 40, 1767225600, "main", True)
PARTS = (Part("linux/amd64", "sha256:" + "1" * 64, 1, ()), Part("linux/arm64", "sha256:" + "2" * 64, 1, ()))
IMAGE = Artifact("api", "prod", "127.0.0.1:5000/llm-call-api", "1.2.3", "sha256:" + "3" * 64, Path("x"), PARTS)
BUILD = Build(
    version="1.2.3",
    source="https://example.org/gateway",
    commit=COMMIT,
    targets={"api-prod": ("linux/amd64", "linux/arm64")},
    builder_id="",
    versions={"engine": "28.5.2", "buildx": "0.29.1"},
    invocation="urn:uuid:0",
    started=1767225700.25,
    finished=1767225760.75,
    internal={"skip-repro": "the mirror is away"},
)
SCHEMA = {
    "type": "object",
    "required": ["buildDefinition", "runDetails"],
    "additionalProperties": False,
    "properties": {
        "buildDefinition": {
            "type": "object",
            "required": ["buildType", "externalParameters", "internalParameters", "resolvedDependencies"],
            "additionalProperties": False,
            "properties": {
                "buildType": {"type": "string", "format": "uri"},
                "externalParameters": {"type": "object"},
                "internalParameters": {"type": "object"},
                "resolvedDependencies": {"type": "array", "items": {"$ref": "#/$defs/resource"}},
            },
        },
        "runDetails": {
            "type": "object",
            "required": ["builder", "metadata"],
            "additionalProperties": False,
            "properties": {
                "builder": {
                    "type": "object",
                    "required": ["id"],
                    "additionalProperties": False,
                    "properties": {
                        "id": {"type": "string", "format": "uri"},
                        "version": {"type": "object", "additionalProperties": {"type": "string"}},
                    },
                },
                "metadata": {
                    "type": "object",
                    "required": ["invocationId", "startedOn", "finishedOn"],
                    "additionalProperties": False,
                    "properties": {
                        "invocationId": {"type": "string"},
                        "startedOn": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
                        "finishedOn": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
                    },
                },
            },
        },
    },
    "$defs": {
        "resource": {
            "type": "object",
            "required": ["uri"],
            "anyOf": [{"required": ["digest"]}, {"required": ["annotations"]}],
            "additionalProperties": False,
            "properties": {
                "uri": {"type": "string", "minLength": 1},
                "name": {"type": "string"},
                "digest": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]+$"}},
                "annotations": {"type": "object"},
            },
        }
    },
}
LOCK = (
    "# made by uv\nsome_thing==1.0 ; python_version >= '3' \\\n"
    f"    --hash=sha256:{'2' * 64} \\\n    --hash=sha256:{'1' * 64}\n"
    f"    # via x\nother[extra]==2 \\\n    --hash=sha256:{'3' * 64}\n"
)
DEBS = f"amd64 libstdc++6 14.2.0-19 {'4' * 64}\narm64 git 1:2.47.3-0+deb13u1 {'5' * 64}\n"
NPM = json.dumps(
    {"packages": {"": {}, "node_modules/@scope/cli-x64": {"version": "2.1.0", "integrity": "sha512-AAEC"}}}
)


def every() -> list[Resource]:
    return [
        provenance.base("shipyard-base:1aed", "sha256:" + "6" * 64),
        provenance.lock("requirements/api.txt", b"x"),
        *provenance.wheels(LOCK),
        *provenance.debs(DEBS),
        *provenance.npm(NPM),
    ]


def made(**changes: Any) -> dict[str, Any]:
    return provenance.predicate(replace(BUILD, **changes), IMAGE, every())


def test_it_has_the_fields_and_types_of_slsa() -> None:
    from jsonschema import Draft202012Validator

    document = json.loads(json.dumps(made()))
    Draft202012Validator(SCHEMA).validate(document)
    del document["runDetails"]["builder"]["id"]
    assert not Draft202012Validator(SCHEMA).is_valid(document)


def test_it_says_what_was_asked_for_and_how() -> None:
    definition = made()["buildDefinition"]
    assert definition["externalParameters"] == {
        "version": "1.2.3",
        "image": "api",
        "target": "prod",
        "platforms": ["linux/amd64", "linux/arm64"],
        "repository": "127.0.0.1:5000/llm-call-api",
        "request": {"api-prod": ["linux/amd64", "linux/arm64"]},
    }
    assert definition["internalParameters"] == {
        "versions": {"buildx": "0.29.1", "engine": "28.5.2"},
        "skip-repro": "the mirror is away",
    }


def test_the_commit_comes_first() -> None:
    first = made()["buildDefinition"]["resolvedDependencies"][0]
    assert first == {
        "uri": f"git+https://example.org/gateway@{COMMIT.revision}",
        "digest": {"gitCommit": COMMIT.revision},
        "name": "source",
    }


def test_every_input_with_its_digest() -> None:
    found = {each["uri"]: each for each in made()["buildDefinition"]["resolvedDependencies"]}
    assert found["docker-image://shipyard-base:1aed"]["digest"] == {"sha256": "6" * 64}
    assert found["file:requirements/api.txt"]["digest"]["sha256"].startswith("2d711642b726b044")
    assert found["pkg:pypi/some-thing@1.0"]["annotations"] == {"anyOfSha256": ["1" * 64, "2" * 64]}
    assert found["pkg:pypi/other@2"]["digest"] == {"sha256": "3" * 64}
    assert found["pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64"]["digest"] == {"sha256": "4" * 64}
    assert found["pkg:deb/debian/git@1:2.47.3-0%2Bdeb13u1?arch=arm64"]["digest"] == {"sha256": "5" * 64}
    assert found["pkg:npm/%40scope/cli-x64@2.1.0"]["digest"] == {"sha512": "000102"}
    assert len(found) == 8


def test_the_order_of_the_inputs_does_not_matter_and_none_is_there_twice() -> None:
    turned = provenance.predicate(BUILD, IMAGE, [*reversed(every()), *every()])
    assert turned == made()


def test_who_built_it_and_when() -> None:
    details = made()["runDetails"]
    assert details["metadata"] == {
        "invocationId": "urn:uuid:0",
        "startedOn": "2026-01-01T00:01:40Z",
        "finishedOn": "2026-01-01T00:02:40Z",
    }
    assert details["builder"]["id"] == f"https://example.org/gateway/blob/{COMMIT.revision}/docs/release.md#builder"
    assert made(builder_id="https://ci.example.org/w")["runDetails"]["builder"]["id"] == "https://ci.example.org/w"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": replace(COMMIT, revision="unknown")}, "'unknown' is no commit"),
        ({"finished": 1767225600.0}, "cannot have ended"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**change)


@pytest.mark.parametrize("resource", [Resource("u", {"sha256": "ABC"}), Resource("u", any_of=("",))])
def test_a_digest_that_is_none_is_refused(resource: Resource) -> None:
    with pytest.raises(ValueError, match=r"u: .* is no digest"):
        provenance.predicate(BUILD, IMAGE, [resource])

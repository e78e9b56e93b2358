"""Secrets: make them, look what is wrong with them, put new ones in place of old ones."""

from __future__ import annotations

from pathlib import Path

from invoke import Context

import shipyard
from shipyard import console
from verbs import verb

ROOT = Path(__file__).parents[1]


@verb(name="init")
def secrets_init(_: Context) -> None:
    """Make what can be generated; a new client key is shown this once, on stdout."""
    made = shipyard.secrets.init(shipyard.config.load(ROOT))
    console.step("made secrets/: " + ", ".join(made.created) if made.created else "nothing is missing in secrets/")
    if made.client_key:
        console.info("clients present this key; it is in secrets/client_key, which only you can read:")
        console.result(made.client_key)


@verb("json", name="check")
def secrets_check(_: Context, json: bool = False) -> None:
    """Name everything wrong with secrets/, and what is not given."""
    report = shipyard.secrets_check.check(shipyard.config.load(ROOT))
    shipyard.secrets_check.show(report, json=json)


@verb("finish", name="rotate")
def secrets_rotate(_: Context, kind: str, finish: bool = False) -> None:
    """Put a new key of client, claude-proxy or redis beside the old one, or end the old one; nothing stops serving."""
    project = shipyard.config.load(ROOT)
    engine = None if shipyard.engine.status().kind == "none" else shipyard.engine.find()
    if finish:
        shipyard.rotation.finish(project, engine, kind)
    elif key := shipyard.rotation.begin(project, engine, kind):
        console.result(key)

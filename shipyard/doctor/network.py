"""Looks at ports, certificates and IPv6."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from pathlib import Path

from shipyard import containers, dotenv, host, ports, proxies, quantities
from shipyard import reached as published_port
from shipyard.diagnosis import network as judge
from shipyard.diagnosis.finding import Finding
from shipyard.diagnosis.network import Authority, Trust, Wanted
from shipyard.doctor.patient import Patient
from shipyard.errors import EngineFailed

#: Files that publish ports; the first one counts in production.
_FILES = ("compose.yaml", "debug-ports.yaml", "monitoring.yaml")
#: Where Debian and its relatives have what an administrator adds (update-ca-certificates(8)).
_ADDED = Path("/usr/local/share/ca-certificates")
_LOOPBACK = "00000000000000000000000000000001"


def published(patient: Patient) -> Finding:
    """The ports that a stack of this checkout publishes."""
    wanted, wrong = _wanted(patient)
    wrong += map(
        str, quantities.equal(quantities.Published("", each.address, each.port, each.variable) for each in wanted)
    )
    known = _containers(patient)
    ours, others = known or ({}, {})
    strange = dict.fromkeys(each.address for each in wanted if ports.foreign(each.address))
    taken = {
        each: owner
        for each in wanted
        if each.port not in ours and each.address not in strange
        if (owner := ports.owner(each.address, each.port, others))
    }
    # Without the engine's answer what forwards to a container may be our own stack's.
    unknown = {} if known else {each: by for each, by in taken.items() if judge.forwards(by)}
    taken = {each: by for each, by in taken.items() if each not in unknown}
    return judge.ports(
        wanted, taken, ours, [*wrong, *(f"{each} is no address of this machine" for each in strange)], unknown
    )


def _wanted(patient: Patient) -> tuple[list[Wanted], list[str]]:
    found = [
        each
        for name in _FILES
        for each in judge.published(patient.compose(name), patient.settings, always=name == _FILES[0])
    ]
    return [each for each in found if isinstance(each, Wanted)], [each for each in found if isinstance(each, str)]


def _containers(patient: Patient) -> tuple[dict[int, str], dict[int, str]] | None:
    """Ports that this checkout's containers publish, and those of all; None where no engine says so."""
    return patient.once("published ports", lambda: _ask(patient))


def _ask(patient: Patient) -> tuple[dict[int, str], dict[int, str]] | None:
    if not patient.info:
        return None
    with suppress(EngineFailed):
        ours = containers.published(patient.engine, dotenv.project_name(patient.root))
        return ours, containers.published(patient.engine)
    return None


def reached(patient: Patient) -> Finding:
    """Whether the published port of this checkout's stack answers."""
    found = containers.every(patient.engine, dotenv.project_name(patient.root), "balancer")
    return judge.reached(published_port.published(patient.engine, found))


def ipv6(patient: Patient) -> Finding:
    """Whether this machine has it, and who is where localhost may lead."""
    try:
        present = _LOOPBACK in Path("/proc/net/if_inet6").read_text()
    except OSError:
        present = False
    wanted, _ = _wanted(patient)
    ours, others = _containers(patient) or ({}, {})
    strangers = [
        f"[::1]:{each.port}"
        for each in wanted
        if present and each.always and each.port not in ours and ports.owner("::1", each.port, others)
    ]
    return judge.ipv6(present, patient.settings.get("LLM_CALL_API_ADDRESS", ""), strangers)


def trust(patient: Patient) -> Finding:
    """The certificates that builds get, and those that the egress gateway trusts."""
    bundle = host.ca_bundle()
    text = bundle.read_text(errors="replace") if bundle else ""
    egress = patient.settings.get("EGRESS_CA_BUNDLE", "")
    found = Trust(
        str(bundle or ""),
        text.count("-----BEGIN CERTIFICATE-----"),
        tuple(each for path in sorted(_ADDED.glob("**/*.crt")) if (each := _authority(path, text))),
        host.absent_bundles(),
        egress,
        _unusable(egress),
        tuple(dict.fromkeys(judge.proxy_host(each) for each in proxies.named().values())),
    )
    return judge.trust(found, time.time())


def _authority(path: Path, bundle: str) -> Authority | None:
    """A certificate that was added here; None for what is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=str(path))
        text = path.read_text()
    except (OSError, ssl.SSLError, UnicodeDecodeError):
        return None
    until = min((ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()), default=None)
    if until is None:
        return None
    body = "".join(text.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0].split())
    return Authority(path.name, float(until), body in "".join(bundle.split()))


def _unusable(egress: str) -> str:
    """Why the egress gateway cannot use a bundle; empty when it can, or none is named."""
    if not egress:
        return ""
    path = Path(egress)
    if not path.is_absolute():
        return "is no absolute path"
    try:
        mode = path.stat().st_mode
        text = path.read_text(errors="replace")
    except OSError as problem:
        return str(problem.strerror)
    if "-----BEGIN CERTIFICATE-----" not in text:
        return "holds no certificate"
    return "" if mode & 0o004 else "is not readable by others, and the gateway runs as a user of its own"

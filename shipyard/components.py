"""Package databases as components of CycloneDX: Debian packages, Python distributions, npm packages. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Any

from shipyard import licenses

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from debian.deb822 import Packages
    from packageurl import PackageURL

#: Properties of ours; what is not in the package URL and has no field of its own in CycloneDX.
PROPERTY = "io.llm-call.shipyard"
#: How Debian and npm call the architectures of an image.
_CPUS = {"amd64": "x64", "arm64": "arm64"}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Found:
    """A component, and the references of those components that its metadata says it depends on."""

    component: Component
    needs: frozenset[str]

    @property
    def ref(self) -> str:
        """The component's reference inside its document."""
        return str(self.component.bom_ref.value)


def debian(
    status: str, release: str, copyright: Callable[[str], tuple[str, str]], hashes: Mapping[tuple[str, str], str]
) -> list[Found]:
    """The installed packages of a ``dpkg/status``, and Debian itself.

    ``copyright`` gives path and text of a package's copyright file, ``hashes`` the SHA-256 of packages by name and version.
    """
    from debian.deb822 import Packages

    packages = [
        each
        for each in Packages.iter_paragraphs(status, use_apt_pkg=False)
        if each.get("Status", "").endswith(" installed")
    ]
    system = {key: value.strip('"') for key, _, value in (line.partition("=") for line in release.splitlines())}
    urls = [_deb(each, system) for each in packages]
    known: dict[str, set[str]] = {}
    for package, url in zip(packages, urls, strict=True):
        for name in {package["Package"]} | _related(package, "provides"):
            known.setdefault(name, set()).add(url.to_string())
    found = [_system(system)] if system.get("ID") else []
    for package, url in zip(packages, urls, strict=True):
        needs = {ref for name in _related(package, "pre-depends", "depends") for ref in known.get(name, ())}
        path, text = _told(package, packages, copyright)
        sha256 = hashes.get((package["Package"], package["Version"]), "")
        component = _component(url, licenses.debian(text), sha256=sha256, properties={"copyright": path})
        found.append(Found(component, frozenset(needs - {url.to_string()})))
    return found


def _told(
    package: Packages, packages: Iterable[Packages], copyright: Callable[[str], tuple[str, str]]
) -> tuple[str, str]:
    """A package's copyright file, or that of a package of the same source that it depends on (Debian policy 12.5)."""
    if any(own := copyright(package["Package"])):
        return own
    needs = _related(package, "pre-depends", "depends")
    siblings = (each for each in packages if each["Package"] in needs and _source(each) == _source(package))
    return next((told for each in siblings if any(told := copyright(each["Package"]))), ("", ""))


def _related(package: Packages, *fields: str) -> set[str]:
    """Names in fields such as Depends, alternatives among them, without their versions."""
    groups: list[list[dict[str, str]]] = [group for each in fields for group in package.relations[each] or ()]
    return {choice["name"] for group in groups for choice in group}


def _source(package: Mapping[str, str]) -> str:
    return (package.get("Source") or package["Package"]).partition(" ")[0]


def _deb(package: Mapping[str, str], system: Mapping[str, str]) -> PackageURL:
    """``pkg:deb/debian/...``; the qualifier ``upstream`` names the source package as Syft writes and Grype reads it."""
    from packageurl import PackageURL

    source, _, version = package.get("Source", "").partition(" ")
    upstream = source + (f"@{version.strip('()')}" if version else "")
    distro = "-".join(part for part in (system.get("ID"), system.get("VERSION_ID")) if part)
    qualifiers = {"arch": package["Architecture"], "distro": distro, "upstream": upstream}
    return PackageURL(
        "deb", "debian", package["Package"], package["Version"], {k: v for k, v in qualifiers.items() if v}
    )


def _system(system: Mapping[str, str]) -> Found:
    from cyclonedx.model.component import Component, ComponentType

    name, version = system["ID"], system.get("VERSION_ID")
    ref = f"os:{name}@{version or ''}"
    return Found(Component(name=name, version=version, type=ComponentType.OPERATING_SYSTEM, bom_ref=ref), frozenset())


def python(metadata: Mapping[str, str], architecture: str, version: str) -> list[Found]:
    """Python distributions from their METADATA by path. ``version`` is that of the Python that runs them."""
    from packageurl import PackageURL
    from packaging.utils import canonicalize_name

    parsed = {path: HeaderParser().parsestr(text) for path, text in sorted(metadata.items())}
    urls = {
        path: PackageURL("pypi", None, canonicalize_name(str(each["Name"])), str(each["Version"]))
        for path, each in parsed.items()
    }
    refs = {url.name: url.to_string() for url in urls.values()}
    found: dict[str, Found] = {}
    for path, message in parsed.items():
        needs = {refs[name] for name in _required(message, architecture, version) if name in refs}
        component = _component(urls[path], licenses.python(message, _is_spdx), properties={"path": path})
        found.setdefault(urls[path].to_string(), Found(component, frozenset(needs - {urls[path].to_string()})))
    return list(found.values())


def _required(message: Message, architecture: str, version: str) -> Iterable[str]:
    """Names that a distribution requires on Linux with CPython, without extras."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    environment = {
        "extra": "",
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": _MACHINES.get(architecture, architecture),
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": version,
        "python_version": ".".join(version.split(".")[:2]),
        "sys_platform": "linux",
    }
    for line in message.get_all("Requires-Dist") or ():
        try:
            requirement = Requirement(str(line))
        except InvalidRequirement:  # a name that cannot be read is a name that nothing here has
            continue
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield canonicalize_name(requirement.name)


def npm(lock: str, architecture: str, local: Mapping[str, str]) -> list[Found]:
    """The packages of a ``package-lock.json`` (version 3) for an architecture, with the files that were taken out of them.

    ``local`` is the SHA-256 of each file of the image that comes from no package manager, by path.
    """
    import base64

    from cyclonedx.model import HashAlgorithm, HashType
    from packageurl import PackageURL

    found = []
    packages: dict[str, Any] = json.loads(lock)["packages"] if lock else {}
    for path, entry in sorted(packages.items()):
        if not path or entry.get("dev") or _CPUS.get(architecture) not in entry.get("cpu", _CPUS.values()):
            continue
        scope, _, name = path.rpartition("node_modules/")[2].rpartition("/")
        url = PackageURL("npm", scope or None, name, entry["version"])
        component = _component(url, (entry["license"],) if entry.get("license") else (), properties={})
        algorithm, _, integrity = str(entry.get("integrity", "")).partition("-")
        if algorithm == "sha512":
            digest = base64.b64decode(integrity).hex()
            component.hashes.add(HashType(alg=HashAlgorithm.SHA_512, content=digest))
        found.append(Found(component, frozenset()))
    if len(found) == 1:
        found[0].component.components.update(each.component for each in files(local))
        return found
    return [*found, *files(local)]


def files(local: Mapping[str, str]) -> list[Found]:
    """Files by path with their SHA-256."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    return [
        Found(
            Component(
                name=f"/{path}",
                type=ComponentType.FILE,
                bom_ref=f"file:/{path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
            ),
            frozenset(),
        )
        for path, sha256 in sorted(local.items())
    ]


def _component(url: PackageURL, names: Iterable[str], *, properties: Mapping[str, str], sha256: str = "") -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=url.name,
        group=url.namespace if url.type == "npm" else None,
        version=url.version,
        type=ComponentType.LIBRARY,
        bom_ref=url.to_string(),
        purl=url,
        licenses=stated(names),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else None,
        properties=[Property(name=f"{PROPERTY}:{key}", value=value) for key, value in properties.items() if value],
    )


def _is_spdx(text: str) -> bool:
    from cyclonedx.spdx import fixup_id, is_expression

    return fixup_id(text) is not None or is_expression(text)


def stated(names: Iterable[str]) -> list[Any]:
    """Licences of a component: one expression, or a list of identifiers and names; NOASSERTION where there is none."""
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import fixup_id, is_expression

    known = sorted(names) or [licenses.UNKNOWN]
    if len(known) == 1 and not fixup_id(known[0]) and known[0] != licenses.UNKNOWN and is_expression(known[0]):
        return [LicenseExpression(known[0])]
    return [
        DisjunctiveLicense(id=identifier) if (identifier := fixup_id(name)) else DisjunctiveLicense(name=name)
        for name in known
    ]

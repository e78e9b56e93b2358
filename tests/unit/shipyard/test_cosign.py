"""Command lines of cosign, and the environment it gets."""

from __future__ import annotations

from pathlib import Path

from shipyard.commands import cosign
from shipyard.commands.cosign import Identity

OFFLINE = ["--tlog-upload=false", "--use-signing-config=false"]
ONE, TWO = "127.0.0.1:5000/api@sha256:1", "127.0.0.1:5000/api@sha256:2"
WHO = Identity("https://github.com/o/r/.github/workflows/release.yml@refs/heads/main", "https://issuer.example")


def test_signing_with_a_key_asks_no_service() -> None:
    assert cosign.sign("c", "k.key", [ONE, TWO]) == ["c", "sign", "--yes", "--key", "k.key", *OFFLINE, ONE, TWO]
    assert cosign.attest("c", "env://K", "cyclonedx", Path("s.json"), ONE) == [
        *["c", "attest", "--yes", "--key", "env://K", *OFFLINE],
        *["--type", "cyclonedx", "--predicate", "s.json", ONE],
    ]


def test_keyless_signing_leaves_the_services_to_sigstore() -> None:
    assert cosign.sign("c", "", [ONE]) == ["c", "sign", "--yes", ONE]
    assert cosign.attest("c", "", "slsaprovenance1", Path("p"), ONE) == [
        *["c", "attest", "--yes", "--type", "slsaprovenance1", "--predicate", "p", ONE]
    ]


def test_verifying_by_key_and_by_identity() -> None:
    assert cosign.verify("c", Path("cosign.pub"), [ONE, TWO]) == [
        *["c", "verify", "--key", "cosign.pub", "--insecure-ignore-tlog", ONE, TWO]
    ]
    assert cosign.verify_attestation("c", WHO, "cyclonedx", [ONE]) == [
        *["c", "verify-attestation", "--certificate-identity", WHO.subject],
        *["--certificate-oidc-issuer", WHO.issuer, "--type", "cyclonedx", ONE],
    ]


def test_keys() -> None:
    assert cosign.generate("c") == ["c", "generate-key-pair"]
    assert cosign.public_key("c", "env://K") == ["c", "public-key", "--key", "env://K"]


BASE = {
    "PATH": "/bin",
    "HOME": "/home/somebody",
    "SSL_CERT_FILE": "/ca",
    "COSIGN_REPOSITORY": "elsewhere.example/signatures",
    "COSIGN_PASSWORD": "of the caller",
    "TUF_ROOT": "/tuf",
    "SIGSTORE_ROOT_FILE": "/root.pem",
    "SIGSTORE_ID_TOKEN": "token",
    "ACTIONS_ID_TOKEN_REQUEST_URL": "https://tokens.example",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "token",
    "COSIGN_PRIVATE_KEY": "key",
}


def test_a_key_s_environment_holds_neither_tokens_nor_what_steers_cosign() -> None:
    found = cosign.environment(BASE, Path("/own"), key="k", password="", docker_config=Path("/login"))
    assert found == {
        "PATH": "/bin",
        "HOME": "/own",
        "SSL_CERT_FILE": "/ca",
        "NO_COLOR": "1",
        "DOCKER_CONFIG": "/login",
        "COSIGN_PASSWORD": "",
    }


def test_a_key_in_a_variable_stays() -> None:
    found = cosign.environment(BASE, Path("/own"), key="env://COSIGN_PRIVATE_KEY", password="p")
    assert (found["COSIGN_PRIVATE_KEY"], found["COSIGN_PASSWORD"]) == ("key", "p")
    assert "COSIGN_REPOSITORY" not in found


def test_a_token_stays_where_it_signs() -> None:
    found = cosign.environment(BASE, Path("/own"))
    tokens = {"SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"}
    assert found.keys() == {"PATH", "HOME", "SSL_CERT_FILE", "NO_COLOR"} | tokens


def test_the_reason_is_the_last_line_without_its_beginnings() -> None:
    output = "WARNING: insecure\nError: no\nerror during command execution: decrypt: decryption failed\n\n"
    assert cosign.reason(output) == "decrypt: decryption failed"
    assert cosign.reason("Error: signing [h/a@sha256:1 h/b@sha256:2]: HEAD http://h: no") == "HEAD http://h: no"
    assert cosign.reason("\n") == ""

"""Which proxy a URL is asked through, held against a table that Go itself has made (proxies_of_go/cases.py says how)."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from shipyard import proxies
from shipyard.errors import ConfigError

FOLDER = Path(__file__).with_name("proxies_of_go")
_spec = importlib.util.spec_from_file_location("cases", FOLDER / "cases.py")
assert _spec
assert _spec.loader
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
TABLE = json.loads((FOLDER / "table.json").read_text())
#: A proxy that Go can talk to. It takes `http:proxy.invalid`, and `http://http://...` with a proxy called http, and fails later.
USABLE = re.compile(r"[a-z0-9]+://(?![^/@]*:/)[^/]")


@pytest.mark.parametrize(
    ("environment", "row"), list(zip(cases.ENVIRONMENTS, TABLE, strict=True)), ids=lambda each: str(each)[-60:]
)
def test_as_go(environment: dict[str, str], row: list[str]) -> None:
    proxy, letters = row
    meant = {"p": proxy if USABLE.match(proxy) else "!", "-": "", "!": "!"}
    assert {url: ask(url, environment) for url in cases.URLS} == {
        url: meant[letter] for url, letter in zip(cases.URLS, letters, strict=True)
    }


def ask(url: str, environment: dict[str, str]) -> str:
    try:
        return proxies.find(url, environment)
    except ConfigError as failed:
        assert "somebody" not in str(failed)
        return "!"


def test_a_value_that_names_no_proxy() -> None:
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY: names no proxy: it is to be http://HOST:PORT"):
        proxies.find("https://a.example/", {"https_proxy": "http://somebody:secret@http://proxy.invalid"})


def test_what_a_person_sees_of_them() -> None:
    named = {"HTTPS_PROXY": "proxy.invalid:3128", "https_proxy": "other.invalid", "ALL_PROXY": "all.invalid"}
    assert proxies.named(named) == {"HTTPS_PROXY": "http://proxy.invalid:3128"}
    assert proxies.named({}) == {}


def test_for_programs_that_read_names_of_one_case_only() -> None:
    """apt knows http_proxy, and not HTTP_PROXY."""
    mixed = {"HTTP_PROXY": "upper.invalid:1", "http_proxy": "http://lower.invalid:2", "no_proxy": "a.example"}
    assert proxies.both_cases(mixed) == {
        **dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://upper.invalid:1"),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "a.example"),
    }

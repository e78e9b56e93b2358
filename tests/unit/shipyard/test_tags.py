"""VERSION, target and registry to references."""

from shipyard import tags


def test_prod_has_the_version_itself_and_others_say_their_target() -> None:
    assert {target: tags.tag("1.2.3-rc.1", target) for target in ("prod", "dev", "debug", "cuda")} == {
        "prod": "1.2.3-rc.1",
        "dev": "1.2.3-rc.1-dev",
        "debug": "1.2.3-rc.1-debug",
        "cuda": "1.2.3-rc.1-cuda",
    }


def test_references_with_and_without_a_registry() -> None:
    assert tags.reference("llm-call-api", "1.2.3", "prod") == "llm-call-api:1.2.3"
    assert tags.reference("llm-call-api", "1.2.3", "dev", "localhost:5000") == "localhost:5000/llm-call-api:1.2.3-dev"
    assert tags.reference("llm-call-api", "1.2.3", "prod", "ghcr.io/team/") == "ghcr.io/team/llm-call-api:1.2.3"

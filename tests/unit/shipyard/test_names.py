"""Suggestions for names that do not exist."""

from shipyard.names import perhaps


def test_a_near_name_is_suggested_and_otherwise_all_are_listed() -> None:
    assert perhaps("platform", ("platforms", "targets")) == 'perhaps you meant "platforms"'
    assert perhaps("zzz", ("targets", "platforms")) == "known: platforms, targets"

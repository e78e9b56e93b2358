"""From inside a runner of claude-proxy, as a tool of the real CLI tries it, and as it could be tried if the sandbox had a hole."""

from __future__ import annotations

import pytest

from tests.isolation.attempts import EVERYWHERE, FROM_INSIDE, PEER, Attempt, Outcomes

_TRIED = [(place, attempt) for attempt in FROM_INSIDE for place in attempt.where]


@pytest.mark.parametrize("attempt", FROM_INSIDE, ids=lambda attempt: attempt.name)
def test_the_control_succeeds(outcomes: Outcomes, attempt: Attempt) -> None:
    outcome = outcomes.found[attempt.control][attempt.name]
    assert outcome.startswith("done: "), f"so the attempt proves nothing: {outcome}"


@pytest.mark.parametrize(("place", "attempt"), _TRIED, ids=[f"{attempt.name}-{place}" for place, attempt in _TRIED])
def test_it_is_refused(outcomes: Outcomes, place: str, attempt: Attempt) -> None:
    assert outcomes.found[place][attempt.name].startswith("refused: ")


def test_nothing_arrived(outcomes: Outcomes) -> None:
    """Not one packet that only went unanswered, either; what the controls said did arrive."""
    senders = {
        place for place in (*EVERYWHERE, PEER, "plain", "open") for said in outcomes.heard if f"{place}-" in said
    }
    assert senders == {"plain", "open"}

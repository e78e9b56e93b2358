"""What a tool can have of the provider beyond its request: by the token that its CLI was given, and without."""

from __future__ import annotations

import base64
import json
import shlex

from tests.isolation.scene import Scene
from tests.support.attacked import Attacked

#: Calls as MODEL,... of whoever asks BASE with TOKEN; `own` stands for what the CLI of this request was given.
SCRIPT = """
import json, os, sys, urllib.error, urllib.request
base, token, models = sys.argv[1:]
base = os.environ["ANTHROPIC_BASE_URL"] if base == "own" else base
token = os.environ["ANTHROPIC_API_KEY"] if token == "own" else token
found = []
for model in models.split(","):
    body = json.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).encode()
    headers = {"x-api-key": token, "content-type": "application/json"}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(base + "/v1/messages", body, headers), timeout=5)
        found.append(answer.status)
    except urllib.error.HTTPError as error:
        found.append(error.code)
    except OSError as error:
        found.append("no way")
print(json.dumps({"found": found, "token": token, "base": base}))
"""


def command(base: str, token: str, *models: str) -> str:
    # A marker of the double holds no brackets.
    script = base64.b64encode(SCRIPT.encode()).decode()
    return f"echo {script} | base64 -d >$TMPDIR/ask.py; python3 -I $TMPDIR/ask.py {shlex.join([base, token, ','.join(models)])}"


def test_a_tool_has_the_model_of_its_request_and_no_other(stack: Attacked) -> None:
    found = json.loads(
        stack.bash(command("own", "own", "claude-sonnet-5-5", *["claude-opus-5-5"] * 20, "claude-sonnet-x"))
    )
    assert found["found"] == [200, *[403] * 21]


def test_a_token_is_worth_nothing_after_its_request(stack: Attacked) -> None:
    earlier = json.loads(stack.bash(command("own", "own", "claude-sonnet-5-5")))
    assert earlier["found"] == [200]
    assert json.loads(stack.bash(command("own", earlier["token"], "claude-sonnet-5-5")))["found"] == [401]
    for token in ("none", "run-" + "x" * 43, "held-by-the-egress-gateway"):
        assert json.loads(stack.bash(command("own", token, "claude-sonnet-5-5")))["found"] == [401]


def test_no_way_leads_round_the_gate(scene: Scene) -> None:
    """The control is a container on the network of egress, which answers it with the provider's key."""
    words = command("http://egress:8080", "any", "claude-opus-5-5")
    said = scene.stack.copy.docker("exec", "--env=TMPDIR=/tmp", scene.plain, "bash", "-c", words)
    assert json.loads(said)["found"] == [200]
    assert json.loads(scene.stack.bash(words))["found"] == ["no way"]
    straight = command("http://messages-api:9100", "any", "claude-opus-5-5")
    assert json.loads(scene.stack.bash(straight))["found"] == ["no way"]

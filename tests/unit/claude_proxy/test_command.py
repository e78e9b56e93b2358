from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from claude_proxy import command
from claude_proxy.command import Folder
from claude_proxy.conversation import Ask, Turn
from claude_proxy.settings import Credential, Settings
from serving.settings import Secret

FOLDER = Folder(Path("/workspace/proxy-x/1"))
PROMPT = [{"type": "text", "text": "/cost of everything"}]
HISTORY = [Turn("user", [{"type": "text", "text": "one"}]), Turn("assistant", [{"type": "text", "text": "two"}])]
KEY = Credential("ANTHROPIC_API_KEY", Secret("sk-key"))
TOKEN = Credential("CLAUDE_CODE_OAUTH_TOKEN", Secret("token"))


def ask(history: list[Turn] | None = None, max_tokens: int | None = None) -> Ask:
    return Ask(model="opus", system="be brief", history=history or [], prompt=PROMPT, max_tokens=max_tokens)


def test_the_whole_command_line() -> None:
    assert command.argv("/usr/local/bin/claude", ask(HISTORY), FOLDER, Settings(credential=KEY)) == [
        "/usr/local/bin/claude",
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
        "--input-format",
        "stream-json",
        "--model",
        "opus",
        "--tools",
        "",
        "--strict-mcp-config",
        "--disable-slash-commands",
        "--setting-sources=",
        "--no-session-persistence",
        "--system-prompt-file",
        "/workspace/proxy-x/1/system.txt",
        "--resume",
        "/workspace/proxy-x/1/history.jsonl",
        "--bare",
    ]


def test_without_history_nothing_is_resumed() -> None:
    assert "--resume" not in command.argv("claude", ask(), FOLDER, Settings(credential=KEY))


def test_an_oauth_token_is_not_read_in_bare_mode() -> None:
    assert "--bare" not in command.argv("claude", ask(), FOLDER, Settings(credential=TOKEN))


def test_the_whole_environment() -> None:
    settings = Settings(
        credential=KEY, base_url="http://egress:8080", passed_on={"SSL_CERT_FILE": "/ca.pem"}, retries=1
    )
    assert command.environment(ask(max_tokens=9), FOLDER, settings) == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/workspace/proxy-x/1/home",
        "TMPDIR": "/workspace/proxy-x/1/tmp",
        "CLAUDE_CONFIG_DIR": "/workspace/proxy-x/1/config",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
        "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
        "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
        "CLAUDE_CODE_TMPDIR": "/workspace/proxy-x/1/tmp",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "9",
        "SSL_CERT_FILE": "/ca.pem",
        "ANTHROPIC_BASE_URL": "http://egress:8080",
        "ANTHROPIC_API_KEY": "sk-key",
    }


def test_the_smallest_environment_holds_no_credential() -> None:
    env = command.environment(ask(), FOLDER, Settings())
    assert not {"ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_BASE_URL"} & set(env)


def test_tools_and_servers_are_allowed_and_nobody_is_asked() -> None:
    wanted = replace(ask(), tools=("Bash", "Read"), servers=("docs",))
    line = command.argv("claude", wanted, FOLDER, Settings(credential=KEY))
    assert line[line.index("--tools") + 1] == "Bash,Read"
    assert line[line.index("--allowedTools") + 1] == "Bash,Read,mcp__docs"
    assert line[line.index("--permission-mode") + 1] == "dontAsk"
    assert line[line.index("--mcp-config") + 1] == "/workspace/proxy-x/1/mcp.json"
    assert line[-1] == "--bare"


def test_tools_that_the_bare_mode_does_not_know_need_the_other() -> None:
    line = command.argv("claude", replace(ask(), tools=("Grep",)), FOLDER, Settings(credential=KEY))
    assert "--bare" not in line


def test_a_login_folder_is_the_configuration_and_never_bare() -> None:
    settings = Settings(login=Path("/login"))
    assert command.environment(ask(), FOLDER, settings)["CLAUDE_CONFIG_DIR"] == "/login"
    assert "--bare" not in command.argv("claude", ask(), FOLDER, settings)


def test_a_cli_that_was_started_ahead_is_told_what_it_could_not_know() -> None:
    assert command.adjustments(replace(ask(), system=""), "opus") == b""
    requests = [json.loads(line)["request"] for line in command.adjustments(ask(), "sonnet").splitlines()]
    assert requests == [
        {"subtype": "initialize", "systemPrompt": "be brief"},
        {"subtype": "set_model", "model": "opus"},
    ]


def test_the_prompt_is_one_line_that_nobody_typed() -> None:
    line = command.prompt(ask())
    assert line.count(b"\n") == 1
    document = json.loads(line)
    assert document["text_not_typed"] is True
    assert document["message"] == {"role": "user", "content": PROMPT}


def test_the_history_is_a_chain_of_turns() -> None:
    lines = [json.loads(line) for line in command.history(ask(HISTORY), FOLDER, "2.1.330").splitlines()]
    assert [(line["type"], line["message"]["role"]) for line in lines] == [("user", "user"), ("assistant", "assistant")]
    assert [line["message"]["content"][0]["text"] for line in lines] == ["one", "two"]
    assert [line["parentUuid"] for line in lines] == [None, lines[0]["uuid"]]
    assert len({line["sessionId"] for line in lines}) == 1
    assert command.history(ask(), FOLDER, "2.1.330") == b""

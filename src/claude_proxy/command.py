"""The CLI's command line, environment and input for one request: pure functions, they start nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import uuid4

import orjson

from claude_proxy.conversation import Ask, Turn
from claude_proxy.folders import Folder
from claude_proxy.settings import Settings

SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
QUIET = {
    "LANG": "C.UTF-8",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    # Without these two, `@/path` in a prompt makes the CLI read that file into the conversation, tools or not.
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    # Nobody's CLAUDE.md, not even the one of a login folder, says anything about a request.
    "CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1",
}
ONE_MODEL = {
    # The gate lets a request have the model that it names: no other one takes its place, and sub-agents use it, too.
    "CLAUDE_CODE_DISABLE_LEGACY_MODEL_REMAP": "1",
    "CLAUDE_CODE_NO_MODEL_FALLBACK": "1",
    "CLAUDE_CODE_SUBAGENT_MODEL": "inherit",
    "CLAUDE_CODE_SUBAGENT_MODEL_FORCE": "1",
}
BARE_TOOLS = {"Bash", "Edit", "Read"}


def argv(cli: str, ask: Ask, folder: Folder, settings: Settings) -> list[str]:
    """Return the command line. Nothing of the conversation is on it, and nothing that a request could have written."""
    tools = ask.tools or ()
    line = [cli, "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]
    line += ["--input-format", "stream-json", "--model", ask.model, "--tools", ",".join(tools), "--strict-mcp-config"]
    line += ["--disable-slash-commands", "--setting-sources=", "--no-session-persistence"]
    line += ["--system-prompt-file", str(folder.system)]
    if ask.history:
        line += ["--resume", str(folder.history)]
    if ask.servers:
        line += ["--mcp-config", str(folder.servers)]
    if tools or ask.servers:
        # Whatever is not allowed here is denied: nobody is there to be asked.
        allowed = [*tools, *(f"mcp__{name}" for name in ask.servers)]
        line += ["--allowedTools", ",".join(allowed), "--permission-mode", "dontAsk"]
    if _bare(tools, settings):
        line += ["--bare"]
    return line


def _bare(tools: Iterable[str], settings: Settings) -> bool:
    """Whether `--bare` serves: it leaves out memory, plugins and the description of this machine.

    But it never reads an OAuth token or a login, and it knows three tools only.
    """
    by_key = settings.credential is None or settings.credential.variable == "ANTHROPIC_API_KEY"
    return by_key and settings.login is None and set(tools) <= BARE_TOOLS


def environment(ask: Ask, folder: Folder, settings: Settings) -> dict[str, str]:
    """Return the CLI's whole environment: built from nothing, so that nothing of the service's own leaks into it."""
    env = {"PATH": SEARCH_PATH, **QUIET, **settings.passed_on}
    env["HOME"] = str(folder.home)
    env["CLAUDE_CONFIG_DIR"] = str(settings.login or folder.config)
    env["TMPDIR"] = env["CLAUDE_CODE_TMPDIR"] = str(folder.scratch)
    env["CLAUDE_CODE_MAX_RETRIES"] = str(settings.retries)
    if settings.base_url:
        env["ANTHROPIC_BASE_URL"] = settings.base_url
    if settings.credential:
        env[settings.credential.variable] = settings.credential.value.reveal()
    if settings.egress:
        env |= ONE_MODEL
        if ask.tools or ask.servers:
            # For what the CLI has a smaller model do. One without tools may still be told another model.
            env["ANTHROPIC_SMALL_FAST_MODEL"] = ask.model
    if ask.max_tokens:
        env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(ask.max_tokens)
    return env


def adjustments(ask: Ask, model: str) -> bytes:
    """Return what turns a CLI that was started for `model` and no system prompt into one for this request."""
    requests: list[dict[str, str]] = []
    if ask.system:
        requests.append({"subtype": "initialize", "systemPrompt": ask.system})
    if ask.model != model:
        requests.append({"subtype": "set_model", "model": ask.model})
    lines = [{"type": "control_request", "request_id": each["subtype"], "request": each} for each in requests]
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def prompt(ask: Ask) -> bytes:
    """Return what goes to the CLI's standard input: the last turn as one stream-json message.

    `text_not_typed` tells the CLI that nobody typed this at its prompt: `/name` is then text, not a command of its own.
    """
    message = {"role": "user", "content": ask.prompt}
    line = {"type": "user", "message": message, "parent_tool_use_id": None, "session_id": "", "text_not_typed": True}
    return orjson.dumps(line) + b"\n"


def history(ask: Ask, folder: Folder, cli_version: str) -> bytes:
    """Return the earlier turns as a file for `--resume`."""
    return transcript(ask.history, ask.model, str(folder.work), cli_version)


def transcript(turns: Sequence[Turn], model: str, cwd: str, cli_version: str) -> bytes:
    """Return turns as a session file of the CLI, which `--resume FILE` continues.

    So every turn keeps its role; a transcript inside the prompt could be forged by what a user writes. The stream-json
    input does not serve here: it asks the model anew for each user's turn and moves the assistant's to the front.
    """
    session, parent, lines = str(uuid4()), None, []
    for number, turn in enumerate(turns):
        ident = str(uuid4())
        message: dict[str, object] = {"role": turn.role, "content": turn.content}
        if turn.role == "assistant":
            message |= {"id": f"msg_{number}", "type": "message", "model": model, "stop_reason": "end_turn"}
            message |= {"stop_sequence": None, "usage": {"input_tokens": 0, "output_tokens": 0}}
        line = {"parentUuid": parent, "isSidechain": False, "type": turn.role, "message": message, "uuid": ident}
        line |= {"timestamp": "2026-01-01T00:00:00.000Z", "userType": "external", "cwd": cwd}
        line |= {"sessionId": session, "version": cli_version, "gitBranch": ""}
        lines.append(orjson.dumps(line) + b"\n")
        parent = ident
    return b"".join(lines)

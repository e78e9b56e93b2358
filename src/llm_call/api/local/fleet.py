"""All local models of this gateway: who may be loaded, who has to make room, and what happens when the list changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import aiohttp

from llm_call.api.call import Call
from llm_call.api.catalog import Target
from llm_call.api.local import process, weights
from llm_call.api.local.device import Device
from llm_call.api.local.options import Options
from llm_call.api.local.process import Process
from llm_call.api.local.recipe import Recipe
from llm_call.api.local.refusals import Refusal, Refused
from llm_call.api.local.resident import Counts, Resident, State
from llm_call.api.local.served import Served
from llm_call.api.local.sockets import Sockets
from serving.health import Dependency, NotConfigured
from serving.keys_file import scope_of

log = logging.getLogger("llm_call.local")

SEAT_SECONDS = 30.0
"""How long a request waits until one of the loaded models is idle and can make room."""


class Fleet:
    """Made in the event loop with the first local model; `close` ends everything."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._sockets: Sockets | None = None
        self._residents: dict[str, Resident] = {}
        self._retired: set[Resident] = set()
        self._counts: dict[str, Counts] = defaultdict(Counts)
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.device = Device(options)
        self._watching = asyncio.create_task(self.device.run())

    def change(self, recipes: Mapping[str, Recipe]) -> None:
        """Serve these models from now on. Those that are gone or changed end when their last request has ended."""
        for name, resident in list(self._residents.items()):
            if recipes.get(name) != resident.recipe:
                self._retired.add(self._residents.pop(name))
                self._made_free(resident)
        for name, recipe in recipes.items():
            if name not in self._residents:
                self._residents[name] = Resident(
                    name, recipe, self._counts[name], self._begin, self._watch, self._made_free
                )

    async def post(self, target: Target, call: Call) -> Served | Refusal:
        """Send a request; return the response as soon as its head is here. Raises what aiohttp raises."""
        resident = self._residents.get(target.upstream.name)
        if not resident:
            return Refusal(Refused(f'The model "{target.model}" is not offered any more.', "local_model_removed"))
        try:
            running = await resident.enter()
        except Refused as refused:
            return Refusal(refused)
        try:
            # What a model has read already it tells by its speed and its usage: only to the one tenant that asks it.
            strangers = running.strangers(scope_of(call.client)) and not self._options.shared
            body = call.sent(target, **({"cache_prompt": False} if strangers else {}))
            headers = {"x-request-id": call.ident}
            response = await running.post(call.asked.wire, body, headers, target.timeout)
        except aiohttp.ClientError as error:
            told = await resident.explain(running, error)
            resident.leave()
            raise told from None
        except BaseException:
            resident.leave()
            raise
        return Served(response, running, resident)

    async def check(self, name: str) -> None:
        """Raise unless the model works, or would if it were asked; NotConfigured where there is no llama-server."""
        if not self._options.found():
            raise NotConfigured(self._options.lack)
        resident = self._residents.get(name)
        if resident and resident.trouble and resident.state is not State.READY:
            raise LookupError(resident.trouble)

    def dependencies(self) -> Iterator[Dependency]:
        """Yield the GPU, where there is one to lose."""
        if self.device.gpus:
            yield Dependency("gpu", self.device.check, required=True)

    def figures(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yield each model with its state, memory in bytes, starts and crashes."""
        for name, each in self._residents.items():
            yield (
                name,
                {
                    "state": each.state,
                    "memory_bytes": each.process.memory() if each.process else 0,
                    "starts": each.counts.starts,
                    "failed_starts": each.counts.failed_starts,
                    "crashes": each.counts.crashes,
                },
            )

    async def close(self) -> None:
        """End every model, within 6 s."""
        self._closed = True
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await asyncio.gather(*(each.unload() for each in (*self._residents.values(), *self._retired)), *self._tasks)
        if self._sockets:
            self._sockets.close()

    async def _begin(self, resident: Resident) -> Process:
        """Start a process for a model as soon as there is room. Raises Refused."""
        name, recipe = resident.name, resident.recipe
        if self._closed:
            message = "The service is about to end; send the request again."
            raise Refused(message, "draining", passing=True)
        program = self._options.found()
        if not program:
            message = f'The model "{name}" cannot run: {self._options.lack}.'
            raise Refused(message, "local_models_missing")
        file, needed = await self._judge(resident)
        await self._seat(resident)
        log.info("starting local model %s", name, extra={"model": name, "file": recipe.file})
        try:
            self._sockets = self._sockets or Sockets()
            socket = self._sockets.next()
            # Not cancelled with us: it may exist already, and nobody would know of it.
            starting = asyncio.ensure_future(
                process.start(name, recipe, program, file, socket, needed, on_gpu=self._on_gpu(recipe))
            )
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await (await starting).end()
            raise
        except OSError as error:
            message = f'The model "{name}" cannot start: {error}.'
            raise Refused(message, "local_model_failed") from error

    async def _judge(self, resident: Resident) -> tuple[Path, int]:
        """Return a model's file and the bytes that it needs. Raises Refused for all that is known before it is started.

        This comes before anybody makes room for it.
        """
        name, recipe = resident.name, resident.recipe
        file = weights.locate(Path(self._options.folder), name, recipe)
        needed = await asyncio.to_thread(weights.needed, name, recipe, file)
        version = weights.version(file)
        if version != resident.version:
            resident.outgrew, resident.version = 0, version
        await self.device.known.wait()
        weights.admit(name, recipe, max(0 if self._on_gpu(recipe) else needed, resident.outgrew))
        if self.device.lost and recipe.gpu_layers != 0:
            message = f'The model "{name}" has lost its GPU: {self.device.lost}.'
            raise Refused(message, "gpu_lost")
        return file, needed

    async def _watch(self, running: Process) -> None:
        await running.watch(self._options.watch_seconds)

    def _on_gpu(self, recipe: Recipe) -> bool:
        return bool(self.device.gpus) and recipe.gpu_layers != 0

    async def _seat(self, resident: Resident) -> None:
        """Give a model one of the seats; the idle one that was asked longest ago makes room. Raises Refused."""
        if resident.seated:  # it crashed, and kept its seat
            return
        async with self._door:
            end = time.monotonic() + SEAT_SECONDS
            while not self._closed:
                others = [each for each in (*self._residents.values(), *self._retired) if each.seated]
                if len(others) < self._options.most_loaded:
                    resident.seated = True
                    return
                idle = [each for each in others if not each.users]
                if idle:
                    oldest = min(idle, key=lambda each: each.used)
                    log.info("local model %s unloaded: it makes room for %s", oldest.name, resident.name)
                    await oldest.unload()
                    continue
                self._freed.clear()
                try:
                    async with asyncio.timeout(end - time.monotonic()):
                        await self._freed.wait()
                except TimeoutError:
                    break
        message = (
            f'There is no room for the model "{resident.name}": {self._options.most_loaded} others are loaded and busy '
            "(LLM_CALL_LOCAL_MODELS_LOADED)."
        )
        raise Refused(message, "local_models_busy", seconds=5.0, passing=True)

    def _made_free(self, resident: Resident) -> None:
        self._freed.set()
        if resident in self._retired and not resident.users and not self._closed:
            task = asyncio.create_task(self._bury(resident))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _bury(self, resident: Resident) -> None:
        await resident.unload()
        if not resident.users:
            self._retired.discard(resident)

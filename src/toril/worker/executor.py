"""Run the handler of a job: prepare, call, decide, give the outcome to the settler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toril.clock import Clock
from toril.errors import UnknownJob
from toril.handlers import Context, HandlerTable, Registered
from toril.model import Claim, Completed, Failed, Outcome, Released, Retried, Settlement
from toril.options import DEFAULT_BACKOFF, Backoff, Strategy, to_ms
from toril.wirejson import decode
from toril.worker.decide import decide_error, decide_value, describe, stack_of
from toril.worker.reporter import Reports
from toril.worker.running import Run, Running

log = logging.getLogger("toril.worker")


class Executor:
    """Runs claims, each in a task of its own; handlers that are a plain `def` run in threads."""

    def __init__(
        self,
        tables: Mapping[str, HandlerTable],
        clock: Clock,
        rng: random.Random,
        running: Running,
        reports: Reports,
        take_run: Callable[[Claim], Awaitable[Outcome | None]],
        give: Callable[[Settlement], None],
        freed: Callable[[str], None],
        threads: int,
    ) -> None:
        self._tables = tables
        self._clock = clock
        self._rng = rng
        self._running = running
        self._reports = reports
        self._take_run = take_run
        self._give = give
        self._freed = freed
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="toril-handler")
        self._warned: set[tuple[str, str, str]] = set()

    def start(self, claims: Sequence[Claim]) -> None:
        """Run claimed jobs."""
        loop, now_ms = asyncio.get_running_loop(), self._clock.now_ms()
        for claim in claims:
            run = Run(claim, began_at_ms=now_ms)
            self._running.add(run)
            run.task = loop.create_task(self._run(run))

    def close(self) -> None:
        """Let no thread take another job; those that run go on until they return."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, run: Run) -> None:
        """The whole course of one run. Nothing that a handler raises leaves it."""
        claim = run.claim
        outcome: Outcome = Released()
        run.started = True
        try:
            if not (run.lost or run.handed_back):
                outcome = await self._outcome(run)
        except BaseException as error:  # KeyboardInterrupt and SystemExit of a handler must not end the worker
            outcome = await self._outcome_of_error(run, error)
        run.settling = True
        if run.handed_back:
            outcome = Released()
        if claim.ref in self._reports.pending:
            with contextlib.suppress(asyncio.CancelledError):
                await self._reports.settled(claim.ref)
        if run.lost:
            self._running.remove(claim)
        else:
            self._log(run, outcome)
            self._give(Settlement(claim, outcome))
        self._freed(claim.ref.queue)

    # ---------------------------------------------------------------- prepare and call

    async def _outcome(self, run: Run) -> Outcome:
        claim = run.claim
        if claim.schedule is not None:
            outcome = await self._take_run(claim)
            if outcome is not None:
                return outcome
        if claim.deferred is not None:
            return Failed(claim.deferred)
        table = self._tables[claim.ref.queue]
        handler = table.find(claim.name)
        if handler is None:
            raise UnknownJob(claim.name)
        try:
            data = decode(claim.data)
        except (ValueError, RecursionError) as error:
            return Failed(f"the job's data cannot be read: {error}")
        run.context = context = Context(claim, self._reports)
        args, kwargs = handler.parameters.read(data)
        self._warn_of_unknown(claim, handler, data)
        if handler.parameters.takes_context:
            args = (context, *args)
        if handler.parameters.injected:
            kwargs.update(await self._injected(handler))
        value = await self._call(run, handler, args, kwargs)
        return Completed() if value is None else decide_value(value, self._clock.now_ms())

    async def _call(self, run: Run, handler: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if handler.is_async:
            return await handler.function(*args, **kwargs)
        context = contextvars.copy_context()

        def call() -> Any:
            return context.run(_in_thread, handler.function, args, kwargs)

        value = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return await value if inspect.isawaitable(value) else value

    async def _injected(self, handler: Registered) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, wanted in handler.parameters.injected.items():
            value = wanted.factory()
            values[name] = await value if inspect.isawaitable(value) else value
        return values

    def _warn_of_unknown(self, claim: Claim, handler: Registered, data: Any) -> None:
        """Say once per job name that a member of its data is dropped."""
        if not handler.parameters.takes_data:  # it reads `ctx.data`, if anything
            return
        for member in handler.parameters.unknown(data):
            key = (claim.ref.queue, claim.name, member)
            if key not in self._warned:
                self._warned.add(key)
                log.warning(
                    "jobs %s of queue %s carry the member %r, which no parameter of their handler takes",
                    *key[1::-1],
                    member,
                )

    # ---------------------------------------------------------------- decide

    async def _outcome_of_error(self, run: Run, error: BaseException) -> Outcome:
        claim = run.claim
        table = self._tables[claim.ref.queue]
        handler = table.find(claim.name)
        retry = handler is None or _is_retried(handler, error)
        after_ms: int | None = 0
        if retry and claim.attempt < claim.options.attempts:
            try:
                after_ms = await self._after_ms(table, claim, error)
            except BaseException as broken:
                log.exception("the backoff of %s failed: the default one is taken", claim.ref)
                after_ms = DEFAULT_BACKOFF.draw_ms(claim.attempt, self._rng)
                error.add_note(f"its backoff failed too: {broken!r}")
        try:
            return decide_error(claim, error, self._clock.now_ms(), after_ms=after_ms, retry=retry)
        except Exception as broken:  # a wish of the user's own that cannot be granted
            return Failed(f"the handler's wish cannot be granted: {describe(broken)}", stack_of(broken))

    async def _after_ms(self, table: HandlerTable, claim: Claim, error: BaseException) -> int | None:
        """How long to wait before the next try; None to give up."""
        backoff = claim.options.backoff
        if backoff is None:
            return 0
        if not backoff.is_custom:
            return backoff.draw_ms(claim.attempt, self._rng)
        after = _strategy(table, backoff)(claim.attempt, error)
        if inspect.isawaitable(after):
            after = await after
        if after is None or (isinstance(after, int | float) and after < 0):
            return None
        return to_ms(after, "what a backoff strategy returned")

    # ---------------------------------------------------------------- say it

    def _log(self, run: Run, outcome: Outcome) -> None:
        level = _LEVELS.get(type(outcome), logging.DEBUG)
        if not log.isEnabledFor(level):
            return
        claim, ms = run.claim, self._clock.now_ms() - run.began_at_ms
        extra = {
            "queue": claim.ref.queue,
            "job_id": claim.ref.id,
            "job_name": claim.name,
            "attempt": claim.attempt,
            "ms": ms,
        }
        tries = f"attempt {claim.attempt}"
        if claim.attempt <= claim.options.attempts:  # one that was retried by hand may have more
            tries += f" of {claim.options.attempts}"
        match outcome:
            case Completed():
                log.info("%s %s completed in %d ms", claim.ref, claim.name, ms, extra=extra)
            case Retried(after_ms=after_ms, reason=reason):
                text = "%s %s will be tried again in %.1f s (%s): %s"
                log.warning(text, claim.ref, claim.name, after_ms / 1000, tries, reason, extra=extra)
            case Failed(reason=reason, stack=stack):
                text = "%s %s failed after %d ms (%s): %s%s"
                trace = f"\n{stack.rstrip()}" if stack else ""
                log.error(text, claim.ref, claim.name, ms, tries, reason, trace, extra=extra)
            case _:
                log.debug("%s %s: %s", claim.ref, claim.name, outcome, extra=extra)


_LEVELS: dict[type, int] = {Completed: logging.INFO, Retried: logging.WARNING, Failed: logging.ERROR}


def _in_thread(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a plain function. A future cannot hold a StopIteration: it would end the wait for it, and nobody would know."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"the handler raised StopIteration: {error}") from error


def _is_retried(handler: Registered, error: BaseException) -> bool:
    """Whether errors of this type are worth another try. A BaseException that is no Exception is, like a crash."""
    if isinstance(error, handler.give_up_on):
        return False
    return isinstance(error, handler.retry_on) or not isinstance(error, Exception)


def _strategy(table: HandlerTable, backoff: Backoff) -> Strategy:
    strategy = backoff.strategy or table.strategies.get(backoff.kind)
    if strategy is None:
        raise LookupError(
            f"no backoff strategy is called {backoff.kind!r}: register it with queue.backoff({backoff.kind!r})"
        )
    return strategy

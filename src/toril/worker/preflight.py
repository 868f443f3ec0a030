"""Look once at how the store is set up: workers work on it all the same, unless they are strict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from toril import peers
from toril.errors import ConfigError, StoreUnavailable
from toril.model import Finding
from toril.store import Inspector, Store
from toril.worker.outage import Outage

log = logging.getLogger(__name__)


async def tell(store: Inspector, outage: Outage) -> None:
    """Log what is wrong, a line each. Whatever happens here, the worker goes on."""
    try:
        _log(await _looked_at("preflight", outage, store.preflight))
    except Exception as error:
        log.warning("how the store is set up could not be looked at: %s", error)


async def tell_peers(store: Store, queues: Sequence[str], outage: Outage) -> None:
    """Log what Node's workers on these queues do not honour, a line for each queue. Whatever happens here, the worker goes on."""
    try:
        _log(await _looked_at("peers", outage, lambda: _of_peers(store, queues)))
    except Exception as error:
        log.warning("Node's workers could not be looked for: %s", error)


async def _of_peers(store: Store, queues: Sequence[str]) -> list[Finding]:
    return await peers.check(store, await store.workers(), queues)


async def refuse_unfit(store: Inspector, outage: Outage, stopping: asyncio.Event) -> None:
    """Wait until the store has been looked at, or the worker is to stop before.

    Raises:
        ConfigError: something is wrong with it, by which jobs may be lost or never run.
    """
    looking = asyncio.ensure_future(_looked_at("preflight", outage, store.preflight))
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((looking, stopped), return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            _refuse(looking.result())
    finally:
        looking.cancel()
        stopped.cancel()


def _refuse(findings: Sequence[Finding]) -> None:
    errors = [_sentence(finding) for finding in findings if finding.level == "error"]
    if errors:
        raise ConfigError(f"a strict worker does not work on a store that is set up like this: {'; '.join(errors)}")
    _log(findings)


async def _looked_at(who: str, outage: Outage, look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """What a look at the store shows, as soon as it can be reached."""
    while True:
        try:
            findings = await look()
        except StoreUnavailable as error:
            await outage.pause(who, error)
        else:
            outage.over(who)
            return findings


def _log(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.level != "ok":
            log.log(logging.ERROR if finding.level == "error" else logging.WARNING, "%s", _sentence(finding))


def _sentence(finding: Finding) -> str:
    return f"{finding.about}: {finding.message}" + (f" ({finding.repair})" if finding.repair else "")

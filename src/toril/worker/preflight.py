"""Look once at how the store is set up: workers work on it all the same, unless they are strict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from toril.errors import ConfigError, StoreUnavailable
from toril.model import Finding
from toril.store import Inspector
from toril.worker.outage import Outage

log = logging.getLogger(__name__)


async def tell(store: Inspector, outage: Outage) -> None:
    """Log what is wrong, a line each. Whatever happens here, the worker goes on."""
    try:
        _log(await _looked_at(store, outage))
    except Exception as error:
        log.warning("how the store is set up could not be looked at: %s", error)


async def refuse_unfit(store: Inspector, outage: Outage, stopping: asyncio.Event) -> None:
    """Wait until the store has been looked at, or the worker is to stop before.

    Raises:
        ConfigError: something is wrong with it, by which jobs may be lost or never run.
    """
    looking = asyncio.ensure_future(_looked_at(store, outage))
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


async def _looked_at(store: Inspector, outage: Outage) -> list[Finding]:
    """What there is to say of the store, as soon as it can be reached."""
    while True:
        try:
            findings = await store.preflight()
        except StoreUnavailable as error:
            await outage.pause("preflight", error)
        else:
            outage.over("preflight")
            return findings


def _log(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.level != "ok":
            log.log(logging.ERROR if finding.level == "error" else logging.WARNING, "%s", _sentence(finding))


def _sentence(finding: Finding) -> str:
    return f"{finding.about}: {finding.message}" + (f" ({finding.repair})" if finding.repair else "")

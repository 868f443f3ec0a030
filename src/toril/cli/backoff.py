"""`toril backoff`: the waits that a backoff really leads to."""

from __future__ import annotations

from toril.cli.command import OK, Call, Commands, seconds
from toril.cli.output import Screen, counted
from toril.cli.times import duration
from toril.errors import ConfigError
from toril.options import DEFAULT_BACKOFF, Backoff, JobOptions, resolve


def add_to(commands: Commands) -> None:
    parser = commands.add(
        "backoff",
        run,
        "show the waits between attempts",
        "Show the waits between the attempts of a job that keeps failing. Attempts are all tries, so that there is "
        "one wait fewer than attempts.",
    )
    parser.add_argument("--attempts", type=int, metavar="N", help="all tries (5)")
    parser.add_argument("--retries", type=int, metavar="N", help="tries after the first, instead of --attempts")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--exponential", type=seconds, metavar="S", help="first wait in seconds; then twice as long each")
    kind.add_argument("--fixed", type=seconds, metavar="S", help="each wait in seconds")
    parser.add_argument("--max-delay", type=seconds, metavar="S", help="no wait is longer")
    parser.add_argument("--jitter", type=float, default=0.0, metavar="J", help="0…1: draw each from its last J part")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(call: Call) -> int:
    args = call.args
    backoff = _backoff(args.exponential, args.fixed, args.max_delay, args.jitter)
    attempts = _attempts(args.attempts, args.retries)
    longest_ms = backoff.unreachable_cap_ms(attempts)
    if call.args.json:
        waits = [{"from_ms": low, "to_ms": high} for low, high in _waits(backoff, attempts)]
        call.screen.json({"attempts": attempts, "waits": waits, "cap_is_reached": longest_ms is None})
        return OK
    _print(call.screen, backoff, attempts)
    if longest_ms is not None and backoff is not DEFAULT_BACKOFF:
        call.screen.line(_unreachable(backoff, attempts, longest_ms))
    return OK


def _backoff(exponential: float | None, fixed: float | None, max_delay: float | None, jitter: float) -> Backoff:
    if fixed is not None:
        if max_delay is not None:
            raise ConfigError("--max-delay caps an exponential backoff; a fixed one is its own cap")
        return Backoff.fixed(fixed, jitter=jitter)
    if exponential is not None:
        return Backoff.exponential(exponential, jitter=jitter, max_delay=max_delay)
    if max_delay is not None or jitter:
        raise ConfigError("say --exponential S or --fixed S with --max-delay and --jitter")
    return DEFAULT_BACKOFF


def _attempts(attempts: int | None, retries: int | None) -> int:
    given: JobOptions = {}
    if attempts is not None:
        given["attempts"] = attempts
    if retries is not None:
        given["retries"] = retries
    count = resolve(given or {"attempts": 5}, 0).attempts
    if count > 1000:
        raise ConfigError(f"the waits of at most 1,000 attempts are shown, not {count:,}")
    return count


def _waits(backoff: Backoff, attempts: int) -> list[tuple[int, int]]:
    """The shortest and longest of each wait."""
    return [(int(wait_ms * (1 - backoff.jitter)), wait_ms) for wait_ms in backoff.waits_ms(attempts)]


def _print(screen: Screen, backoff: Backoff, attempts: int) -> None:
    waits = _waits(backoff, attempts)
    if not waits:
        screen.line("1 attempt: the job fails at once, and there is no wait.")
        return
    for number, (low_ms, high_ms) in enumerate(waits, 1):
        screen.line(f"after attempt {number:<3} {_between(low_ms, high_ms)}")
    low_ms, high_ms = (sum(wait) for wait in zip(*waits, strict=True))
    tries = f"{counted(attempts, 'attempt')}, {counted(len(waits), 'wait')}"
    screen.line(f"{tries}: the job fails for good after {_between(low_ms, high_ms)} of waiting.")


def _between(low_ms: int, high_ms: int) -> str:
    return duration(high_ms) if low_ms == high_ms else f"{duration(low_ms)} to {duration(high_ms)}"


def _unreachable(backoff: Backoff, attempts: int, longest_ms: int) -> str:
    cap_ms = backoff.max_delay_ms or 0
    needed = attempts
    while backoff.unreachable_cap_ms(needed) is not None and needed < attempts + 64 and backoff.delay_ms:
        needed += 1
    reach = f"; {needed} attempts would reach it" if backoff.delay_ms else ""
    return f"The cap of {duration(cap_ms)} is never reached: the longest wait is {duration(longest_ms)}{reach}."

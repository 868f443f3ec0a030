"""Jobs run, and end or come back, as Node's do."""

from __future__ import annotations

from dataclasses import replace

from interop.golden.replay import LOCK_MS, Replay, recording, ref
from toril.model import Answer, Completed, Delayed, Failed, Released, Retried, Settlement, Slots, Update, Wanted
from toril.options import Backoff, Keep


@recording("08")
async def test_jobs_that_become_active(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("p", priority=3)))
    await replay.step(replay.add(replay.job("n")))
    first = await replay.step(replay.claim("tok-a", worker="w-one"))
    second = await replay.step(replay.claim("tok-b", worker="w-one"))
    nothing = await replay.step(replay.claim("tok-c", worker="w-one"))

    assert [claim and claim.ref.id for claim in (first, second, nothing)] == ["2", "1", None]


@recording("09")
async def test_a_job_that_completes(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n", '{"a":1}')))
    claim = await replay.step(replay.claim_one("t"))
    await replay.step(replay.settle(claim, Completed('{"ok":true,"s":"é"}')))


@recording("10")
async def test_a_job_that_completes_and_brings_the_next(replay: Replay) -> None:
    await replay.step(replay.add_each(replay.job("n", '{"i":1}'), replay.job("n", '{"i":2}')))
    claim = await replay.step(replay.claim_one("tok"))
    # Node locks the next job with the token of the one before; ours would draw a new token.
    then = Wanted("", "tok", LOCK_MS, (Slots("golden", 1),))
    settled = await replay.step(replay.store.settle([Settlement(claim, Completed())], then))

    assert settled.claimed is not None
    assert [claim.ref.id for claim in settled.claimed.claims] == ["2"]


@recording("11")
async def test_jobs_that_go_when_they_have_completed(replay: Replay) -> None:
    async def run(keep: Keep | bool | int) -> None:
        await replay.add(replay.job("n", keep_completed=keep))
        claim = await replay.claim_one(f"token-{replay.now_ms()}")
        replay.pass_ms(5)
        await replay.settle(claim, Completed('"r"'))

    await replay.step(run(False))
    for _ in range(3):
        await replay.step(run(2))
    replay.pass_ms(10_000)
    await replay.step(run(Keep(age_ms=5_000)))


@recording("12")
async def test_a_job_that_fails(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n")))
    claim = await replay.step(replay.claim_one("tok"))
    await replay.step(replay.settle(claim, Failed("boom", "<stack of Error: boom>")))


@recording("13")
async def test_a_job_that_is_tried_again_at_once_and_then_fails(replay: Replay) -> None:
    job = replay.job("n", attempts=2)
    await replay.step(replay.add(replace(job, options=replace(job.options, backoff=None))))
    claim = await replay.step(replay.claim_one("t1"))
    await replay.step(replay.settle(claim, Retried(0, "one", "<stack of Error: one>")))
    claim = await replay.step(replay.claim_one("t2"))
    await replay.step(replay.settle(claim, Failed("two", "<stack of Error: two>")))


@recording("14")
async def test_a_job_that_fails_is_delayed_by_its_backoff_and_fails_for_good(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n", attempts=3, backoff=Backoff.exponential(1))))
    claim = await replay.step(replay.claim_one("t1"))
    await replay.step(replay.settle(claim, Retried(1_000, "one", "<stack of Error: one>")))
    replay.pass_ms(1_000)
    claim = await replay.step(replay.claim_one("t2"))
    await replay.step(replay.settle(claim, Failed("stop", "<stack of UnrecoverableError: stop>")))


@recording("15")
async def test_a_job_that_is_put_off_and_then_handed_back(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n")))
    claim = await replay.step(replay.claim_one("t1"))
    await replay.step(replay.settle(claim, Delayed(replay.now_ms() + 2_000)))
    replay.pass_ms(2_000)
    claim = await replay.step(replay.claim_one("t2"))
    await replay.step(replay.settle(claim, Released()))


@recording("21")
async def test_a_job_that_stalls_twice(replay: Replay) -> None:
    reason = "job stalled more than allowable limit"
    await replay.step(replay.add(replay.job("n")))
    await replay.step(replay.claim("t1"))
    await replay.step(replay.expire("1:lock"))
    assert await replay.step(replay.recover()) == []
    assert await replay.step(replay.recover()) == []
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == ["1"]
    claim = await replay.step(replay.claim_one("t2"))
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == []
    assert await replay.step(replay.store.extend([claim], LOCK_MS)) == []
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == []
    await replay.step(replay.expire("1:lock"))
    await replay.step(replay.expire("stalled-check"))
    assert await replay.step(replay.recover()) == ["1"]
    claim = await replay.step(replay.claim_one("t3"))
    assert claim.deferred == reason
    await replay.step(replay.settle(claim, Failed(reason, f"<stack of UnrecoverableError: {reason}>")))


@recording("22")
async def test_a_lock_that_is_anothers_or_lost(replay: Replay) -> None:
    await replay.step(replay.add(replay.job("n")))
    mine = await replay.step(replay.claim_one("mine"))
    other = replace(mine, token="other", claimed_at_ms=mine.claimed_at_ms - 1)
    assert not await replay.step(replay.settle(other, Completed("1")))
    assert await replay.step(replay.store.extend([other], LOCK_MS)) == [ref("1")]
    assert await replay.step(replay.store.extend([mine], LOCK_MS)) == []
    assert await replay.step(replay.store.remove([ref("1")])) == [Answer.LOCKED]
    await replay.step(replay.expire("1:lock"))
    assert not await replay.step(replay.settle(mine, Completed("1")))
    # Node's token '0' passes over the lock. We have no such token: the lock is put back, which leaves the same.
    await replay.redis.set("bull:golden:1:lock", "mine")
    assert await replay.step(replay.settle(mine, Completed("1")))
    # Asking again after a lost answer is answered the same, where Node refuses it; neither changes anything.
    assert await replay.step(replay.settle(mine, Completed("1")))
    # Our `retry` takes a completed job too; `promote` is the verb that wants one certain state of it.
    assert await replay.step(replay.store.promote([ref("1")])) == [Answer.WRONG_STATE]
    assert await replay.step(replay.store.remove([ref("1")])) == [Answer.DONE]
    assert await replay.step(replay.store.update([Update(ref("1"), progress="1")])) == [Answer.MISSING]

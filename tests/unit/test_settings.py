"""What a process is told, by whom, and what is never said."""

from __future__ import annotations

from pathlib import Path

import pytest

from toril.errors import ConfigError
from toril.places import connect
from toril.settings import Settings, mask_text, mask_url


def load(
    directory: Path, environ: dict[str, str] | None = None, *, url: str | None = None, prefix: str | None = None
) -> Settings:
    return Settings.load(url=url, prefix=prefix, environ=environ or {}, directory=directory)


def given_project(directory: Path, table: str) -> None:
    (directory / "pyproject.toml").write_text(f"[project]\nname = 'shop'\n[tool.toril]\n{table}\n")


# ------------------------------------------------------------------ the store's place


@pytest.mark.parametrize(
    ("environ", "url", "origin"),
    [
        ({"TORIL_URL": "sqlite:///t.db", "REDIS_URL": "redis://r"}, "sqlite:///t.db", "TORIL_URL"),
        ({"REDIS_URL": "redis://r", "UPSTASH_REDIS_URL": "redis://u"}, "redis://r", "REDIS_URL"),
        ({"UPSTASH_REDIS_URL": "rediss://u", "REDIS_HOST": "h"}, "rediss://u", "UPSTASH_REDIS_URL"),
        ({"REDIS_HOST": "h"}, "redis://h", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "6380"}, "redis://h:6380", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_PASSWORD": "p@/s"}, "redis://:p%40%2Fs@h", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p"}, "redis://u:p@h", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_TLS": "yes"}, "rediss://h", "REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_TLS": "false"}, "redis://h", "REDIS_HOST"),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "6379"}, "redis://[::1]:6379", "REDIS_HOST"),
        ({"TORIL_URL": "", "REDIS_URL": "  ", "UPSTASH_REDIS_URL": "redis://u"}, "redis://u", "UPSTASH_REDIS_URL"),
    ],
)
def test_the_first_variable_that_says_something_names_the_store(
    environ: dict[str, str], url: str, origin: str, tmp_path: Path
) -> None:
    given_project(tmp_path, "url = 'sqlite:///project.db'")

    settings = load(tmp_path, environ)

    assert (settings.url, settings.origins["url"], settings.implicit) == (url, origin, False)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"REDIS_URL": "redis://:secret@h:6380/1"}, "redis://h:6380/1"),
        ({"UPSTASH_REDIS_URL": "rediss://default:secret@h.example:6379"}, "rediss://h.example:6379"),
        ({"REDIS_HOST": "h", "REDIS_PASSWORD": "secret", "REDIS_TLS": "true"}, "rediss://h"),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "6380"}, "redis://[::1]:6380"),
        ({"TORIL_URL": "unix:///run/redis.sock?db=2"}, "unix:///run/redis.sock"),
        (
            {"TORIL_URL": "redis+sentinel://:secret@a:26379,b:26379/mymaster/0?timeout=2"},
            "redis+sentinel://a:26379,b:26379/mymaster/0",
        ),
        ({"REDIS_URL": "redis+cluster://a:7000,b:7001?shard=queue"}, "redis+cluster://a:7000,b:7001"),
    ],
)
def test_whatever_names_a_redis_opens_a_store_on_it(environ: dict[str, str], place: str, tmp_path: Path) -> None:
    store = connect(load(tmp_path, environ).require_url())

    assert (store.kind, store.place) == ("redis", place)


def test_an_argument_is_stronger_than_every_variable(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TORIL_URL": "redis://r", "TORIL_PREFIX": "p"}, url="sqlite:///a.db", prefix="mine")

    assert (settings.url, settings.origins["url"]) == ("sqlite:///a.db", "argument")
    assert (settings.prefix, settings.origins["prefix"]) == ("mine", "argument")


def test_the_project_names_a_store_from_any_directory_below_it(tmp_path: Path) -> None:
    given_project(tmp_path, "url = 'sqlite:///var/jobs.db?durability=relaxed'")
    below = tmp_path / "src" / "shop"
    below.mkdir(parents=True)

    settings = load(below)

    assert settings.url == f"sqlite:///{tmp_path.as_posix()}/var/jobs.db?durability=relaxed"
    assert settings.origins["url"] == "[tool.toril] in pyproject.toml"


def test_without_a_word_jobs_go_beside_the_nearest_project_file(tmp_path: Path) -> None:
    given_project(tmp_path, "")
    below = tmp_path / "src"
    below.mkdir()

    settings = load(below)

    assert (settings.url, settings.implicit) == (f"sqlite:///{tmp_path.as_posix()}/toril.db", True)


def test_without_a_project_jobs_go_into_the_working_directory(tmp_path: Path) -> None:
    assert load(tmp_path).url == f"sqlite:///{tmp_path.as_posix()}/toril.db"


def test_a_directory_with_blanks_and_question_marks_is_a_place_as_any_other(tmp_path: Path) -> None:
    odd = tmp_path / "a b?c%41"
    odd.mkdir()

    assert load(odd).url.endswith("/a%20b%3Fc%2541/toril.db")


def test_production_refuses_the_file_that_nobody_named_only_when_it_is_used(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TORIL_ENV": "production"})

    with pytest.raises(ConfigError, match="set TORIL_URL"):
        settings.require_url()


@pytest.mark.parametrize("environ", [{"TORIL_ENV": "production", "TORIL_URL": "sqlite:///jobs.db"}, {}])
def test_a_file_that_was_named_serves_in_production_and_an_implicit_one_in_development(
    environ: dict[str, str], tmp_path: Path
) -> None:
    settings = load(tmp_path, environ)

    assert settings.require_url() == settings.url


# ------------------------------------------------------------------ switches and words


@pytest.mark.claim("A-28")
@pytest.mark.parametrize("environment", ["development", "production"])
def test_workers_are_on_in_both_environments(environment: str, tmp_path: Path) -> None:
    settings = load(tmp_path, {"TORIL_ENV": environment})

    assert settings.enable_workers
    assert settings.workers_off() is None


@pytest.mark.claim("A-29")
@pytest.mark.parametrize(("environment", "on"), [("development", False), ("production", True)])
def test_schedules_that_code_declares_are_put_in_production_unless_told_otherwise(
    environment: str, on: bool, tmp_path: Path
) -> None:
    assert load(tmp_path, {"TORIL_ENV": environment}).enable_scheduler is on
    other = {"TORIL_ENV": environment, "ENABLE_SCHEDULER": str(not on)}
    assert load(tmp_path, other).enable_scheduler is not on


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "FALSE", "Off"])
def test_every_usual_word_switches_workers_off_and_the_variable_is_named(word: str, tmp_path: Path) -> None:
    settings = load(tmp_path, {"ENABLE_WORKERS": word})

    assert settings.enable_workers is False
    assert settings.workers_off() == f"ENABLE_WORKERS={word}"


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE"])
def test_every_usual_word_switches_workers_on_over_the_project(word: str, tmp_path: Path) -> None:
    given_project(tmp_path, "enable-workers = false")

    assert load(tmp_path, {"ENABLE_WORKERS": word}).enable_workers is True
    assert load(tmp_path).workers_off() == "enable-workers = false, [tool.toril] in pyproject.toml"


def test_torils_own_variable_is_stronger_than_the_name_that_others_use_too(tmp_path: Path) -> None:
    settings = load(tmp_path, {"TORIL_ENABLE_WORKERS": "true", "ENABLE_WORKERS": "somebody else's word"})

    assert settings.origins["enable_workers"] == "TORIL_ENABLE_WORKERS"


def test_the_project_may_write_its_keys_with_either_dash(tmp_path: Path) -> None:
    given_project(tmp_path, "worker_concurrency = 3\nlog-format = 'json'\nprefix = 'shop'\napp = 'jobs:app'")

    settings = load(tmp_path)

    assert (settings.worker_concurrency, settings.log_format) == (3, "json")
    assert (settings.prefix, settings.app) == ("shop", "jobs:app")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"ENABLE_WORKERS": "maybe"}, "ENABLE_WORKERS must be true or false .* not 'maybe'"),
        ({"TORIL_ENV": "prod"}, "TORIL_ENV must be development or production, not 'prod'"),
        ({"WORKER_CONCURRENCY": "0"}, "WORKER_CONCURRENCY must be a whole number between 1 and 100,000, not '0'"),
        ({"WORKER_CONCURRENCY": "2.5"}, "WORKER_CONCURRENCY must be a whole number"),
        ({"TORIL_LOG_FORMAT": "xml"}, "TORIL_LOG_FORMAT must be text or json, not 'xml'"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "http"}, "REDIS_PORT must be a port between 1 and 65535, not 'http'"),
        ({"REDIS_HOST": "h", "REDIS_TLS": "tls"}, "REDIS_TLS must be true or false"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_variable(
    environ: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(tmp_path, environ)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("ulr = 'x'", "unknown key 'ulr' .* known are app, url, prefix"),
        ("enable-workers = 'perhaps'", "enable-workers in .*pyproject.toml must be true or false"),
        ("worker-concurrency = true", "worker-concurrency in .*pyproject.toml must be a whole number"),
        ("url = 7", "url in .*pyproject.toml must be text, not 7"),
        ("url = ['redis://:pw@h']", r"must be text, not \['redis://:\*\*\*@h'\]"),
        ("url = ", "pyproject.toml cannot be read"),
    ],
)
def test_a_project_that_cannot_be_is_refused_with_its_file_and_key(table: str, sentence: str, tmp_path: Path) -> None:
    given_project(tmp_path, table)

    with pytest.raises(ConfigError, match=sentence):
        load(tmp_path)


def test_a_whole_url_as_host_is_refused_without_being_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL") as refused:
        load(tmp_path, {"REDIS_HOST": "redis://:hunter2@h"})

    assert "hunter2" not in str(refused.value)


# ------------------------------------------------------------------ concurrency


@pytest.mark.claim("E-27", "E-28", "E-29", "E-30")
@pytest.mark.parametrize(
    ("environ", "declared", "variable", "expected"),
    [
        ({}, None, None, (10, "default")),
        ({"WORKER_CONCURRENCY": "4"}, None, None, (4, "WORKER_CONCURRENCY")),
        ({"TORIL_WORKER_CONCURRENCY": "5", "WORKER_CONCURRENCY": "4"}, None, None, (5, "TORIL_WORKER_CONCURRENCY")),
        ({"WORKER_CONCURRENCY": "4"}, 2, None, (2, "the declaration")),
        ({"SHARED": "7", "WORKER_CONCURRENCY": "4"}, 2, "SHARED", (7, "SHARED")),
        ({"SHARED": ""}, 2, "SHARED", (2, "the declaration")),
        ({"WEEKLY_MAIL_WORKER_CONCURRENCY": "8", "SHARED": "7"}, 2, "SHARED", (8, "WEEKLY_MAIL_WORKER_CONCURRENCY")),
        (
            {"TORIL_WEEKLY_MAIL_WORKER_CONCURRENCY": "9", "WEEKLY_MAIL_WORKER_CONCURRENCY": "8"},
            2,
            None,
            (9, "TORIL_WEEKLY_MAIL_WORKER_CONCURRENCY"),
        ),
    ],
)
def test_the_nearest_word_says_how_many_jobs_of_a_queue_run_at_once(
    environ: dict[str, str], declared: int | None, variable: str | None, expected: tuple[int, str], tmp_path: Path
) -> None:
    assert load(tmp_path, environ).concurrency("weekly-mail", declared, variable) == expected


def test_one_variable_may_stand_for_several_queues(tmp_path: Path) -> None:
    settings = load(tmp_path, {"ANALYTICS_WORKER_CONCURRENCY": "3"})

    assert [settings.concurrency(queue, 1, "ANALYTICS_WORKER_CONCURRENCY")[0] for queue in ("daily", "weekly")] == [
        3,
        3,
    ]


@pytest.mark.parametrize(("environ", "declared"), [({"EMAIL_WORKER_CONCURRENCY": "many"}, None), ({}, 0), ({}, -1)])
def test_a_concurrency_that_cannot_be_is_refused(environ: dict[str, str], declared: int | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"EMAIL_WORKER_CONCURRENCY|queue 'email'"):
        load(tmp_path, environ).concurrency("email", declared)


# ------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("rediss://ada:hunter2@h", "rediss://ada:***@h"),
        ("redis://hunter2@h", "redis://***@h"),
        ("redis://ada:hun@ter2@h", "redis://ada:***@h"),
        ("redis://:hunter2/x@h/0", "redis://:***@h/0"),
        ("redis://:hunter2?x@h/0", "redis://***"),
        ("redis://:77hunter2#@h", "redis://:***@h"),
        ("redis://h/0?password=hunter2&db=1", "redis://h/0?password=***&db=1"),
        ("postgresql://ada@h/shop?sslpassword=hunter2&sslmode=require", None),
        ("https://h/?api_key=hunter2&access-token=hunter2", None),
        ("host=h user=ada password='hunter2 hunter2'", "host=h user=ada password=***"),
        ("unix://hunter2@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("redis+cluster://hunter2@a:7000,b:7001", "redis+cluster://***@a:7000,b:7001"),
        ("redis+cluster://:hunter2,x?y@a:7000,b:7001", "redis+cluster://***"),
        (
            "redis+sentinel://ada:hunter2@a:1,b:2/mymaster/0?sentinel_password=hunter2&timeout=2",
            "redis+sentinel://ada:***@a:1,b:2/mymaster/0?sentinel_password=***&timeout=2",
        ),
    ],
)
def test_a_url_is_shown_without_what_is_secret_in_it(url: str, shown: str | None) -> None:
    assert "hunter2" not in mask_url(url)
    if shown is not None:
        assert mask_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis+sentinel://a:26379,b:26379/mymaster/0",
        "redis+cluster://a,b:7001,[::1]:7002?shard=queue",
        "unix:///run/redis.sock?db=1",
        "sqlite:////srv/a@b:c.db?durability=full",
        "sqlite://:memory:",
        "postgresql://ada@h/shop",
    ],
)
def test_a_url_without_secrets_is_shown_as_it_is(url: str) -> None:
    assert mask_url(url) == url


def test_text_is_shown_without_the_secrets_of_the_urls_in_it() -> None:
    said = mask_text("cannot reach redis://:hunter2@h:6379 nor 'https://h?token=hunter2': try again")

    assert said == "cannot reach redis://:***@h:6379 nor 'https://h?token=***': try again"


def test_the_settings_themselves_show_no_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, {"REDIS_HOST": "h", "REDIS_PASSWORD": "hunter2", "OTHER": "hunter2"})

    assert "hunter2" not in repr(settings)
    assert "hunter2" in settings.url

"""`toril config`: what this process was told, and by whom."""

from __future__ import annotations

from toril.cli.command import OK, Call, Commands
from toril.settings import Settings, mask_url

NAMES = (
    "url",
    "prefix",
    "environment",
    "enable_workers",
    "enable_scheduler",
    "worker_concurrency",
    "strict",
    "log_format",
    "log_level",
    "app",
)


def add_to(commands: Commands) -> None:
    parser = commands.add("config", run, "show the settings and where each comes from")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(call: Call) -> int:
    settings = call.settings
    if call.args.json:
        call.screen.json({name: {"value": _value(settings, name), "origin": settings.origins[name]} for name in NAMES})
        return OK
    rows = [[name, _shown(_value(settings, name)), settings.origins[name]] for name in NAMES]
    call.screen.table(["SETTING", "VALUE", "SAID BY"], rows, shrink=[1])
    for name, origin in _per_queue(settings):
        call.screen.line(f"{name}={settings.environ[name]} {origin}")
    if settings.implicit and settings.environment == "production":
        call.screen.line("In production this file is refused: set TORIL_URL.")
    return OK


def _value(settings: Settings, name: str) -> str | int | bool | None:
    value: str | int | bool | None = getattr(settings, name)
    return mask_url(settings.url) if name == "url" else value


def _shown(value: str | int | bool | None) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _per_queue(settings: Settings) -> list[tuple[str, str]]:
    """The variables that set the concurrency of single queues."""
    ending = "_WORKER_CONCURRENCY"
    return [
        (name, f"sets queue {name.removeprefix('TORIL_').removesuffix(ending).lower()}")
        for name, value in sorted(settings.environ.items())
        if name.endswith(ending) and name != f"TORIL{ending}" and value.strip()
    ]

"""The real Bull Board as people use it: a server for its pages, and a browser that looks at them and presses buttons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from playwright.async_api import ConsoleMessage, Locator, Page, Response, Route, ViewportSize, expect

from interop.peers import NODE, Process
from toril.model import JobRef

FONTS = "https://fonts.googleapis.com/"
"""What the board's pages ask of the world: letters, which the browser's guard answers with none."""

NOWHERE = "about:blank"
FOLLOW = "path => { history.pushState({}, '', path); dispatchEvent(new PopStateEvent('popstate')) }"
WIDE = ViewportSize(width=1360, height=900)
NARROW = ViewportSize(width=390, height=844)
STILL = "* { transition: none !important }"
NONSENSE = re.compile(r"\bNaN\b|Invalid|\bundefined\b|\[object|\bnull%|-\d+ (milli)?second")
"""What no screen may say of any job."""

BUTTONS = {
    "retry": "refresh-cw",
    "promote": "corner-up-left",
    "reschedule": "clock",
    "prioritize": "arrow-up-down",
    "duplicate": "files",
    "edit": "pencil",
    "remove": "trash-2",
    "remove children": "list-x",
}
"""The buttons of a job, which have no names, by their icons."""


class Board(Process):
    """The board's server."""

    def __init__(self, url: str) -> None:
        super().__init__(["node", str(NODE / "board_server.mjs"), url])

    async def address(self) -> str:
        """Where it is. Asked once."""
        return f"http://127.0.0.1:{(await self.notice('ready'))['port']}"

    async def show(self, prefix: str, queues: Sequence[str]) -> None:
        """From now on it is a board of these queues."""
        await self.ask("show", prefix=prefix, queues=queues)


class Screen:
    """A page of the board in a browser that reaches nothing else."""

    def __init__(self, page: Page, board: Board, address: str) -> None:
        self.page = page
        self._board = board
        self._address = address
        self._prefix = ""
        self._troubles: list[str] = []

    # ---------------------------------------------------------------- where to look

    async def look_at(self, prefix: str, queues: Sequence[str]) -> None:
        """Have the board show these queues, to a page that knows nothing of others."""
        if prefix != self._prefix:
            await self.page.goto(NOWHERE)
            await self._board.show(prefix, queues)
            self._prefix = prefix

    async def open_overview(self) -> None:
        """All queues."""
        await self._open("/")

    async def open_list(self, queue: str, state: str = "latest") -> None:
        """The jobs of a queue that are in a state, or the latest of all."""
        await self._open(f"/queue/{queue}" + ("" if state == "latest" else f"?status={state}"))

    async def turn_to(self, state: str) -> None:
        """Another list of the same queue."""
        await self._tab(state).get_by_role("link").click()
        await self.page.wait_for_url(re.compile(rf"status={state}$"))

    async def open_job(self, ref: JobRef) -> None:
        """The page of one job."""
        await self._open(f"/queue/{ref.queue}/{ref.id}")
        await expect(self.card(ref.id)).to_be_visible()

    async def open_info(self, section: str) -> None:
        """What the board says of the queue that is open, in a dialog: Overview or Connected workers."""
        await self.page.get_by_role("button", name="Queue info").click()
        heading = self.dialog.get_by_role("button", name=section)
        if await heading.get_attribute("aria-expanded") == "false":
            await heading.click()
        await expect(heading).to_have_attribute("aria-expanded", "true")

    async def _open(self, path: str) -> None:
        if self.page.url == NOWHERE:
            await self.page.goto(self._address + path)
        else:  # as a link of the page does it, without loading all of it again
            await self.page.evaluate(FOLLOW, path)
        await expect(self.main.locator("[class*=card-], [class*=statusTabs-]").first).to_be_visible()

    # ---------------------------------------------------------------- what is there

    @property
    def main(self) -> Locator:
        return self.page.locator("main")

    @property
    def dialog(self) -> Locator:
        """What is open above the page."""
        return self.page.get_by_role("dialog").or_(self.page.get_by_role("alertdialog"))

    @property
    def ids(self) -> Locator:
        """The ids of the jobs on the page, in their order."""
        return self.main.locator("[class*=titleWithLink-] [class*=jobId-]")

    def queue(self, name: str) -> Locator:
        """A queue on the overview."""
        link = self.page.get_by_role("link", name=name, exact=True)
        return self.main.get_by_role("listitem").filter(has=link)

    def card(self, job_id: str) -> Locator:
        """A job on the page."""
        title = self.page.locator("[class*=titleWithLink-] [class*=jobId-]")
        its = title.filter(has_text=re.compile(rf"^#?{re.escape(job_id)}$"))  # an id that is a number is shown as #1
        return self.main.locator("[class^=card-]").filter(has=its)

    def badge(self, state: str) -> Locator:
        """The number on the tab of a state. Where there is no job, there is none."""
        return self._tab(state).locator("[class*=badge-]")

    def part(self, job_id: str, name: str) -> Locator:
        """What is under a tab of a job, if that tab is open: Data, Progress, Options, Logs or Error."""
        return self.card(job_id).get_by_role("tabpanel", name=name)

    async def opened(self, job_id: str, name: str) -> Locator:
        """What is under a tab of a job, which is opened."""
        await self.card(job_id).get_by_role("tab", name=name).click()
        return self.part(job_id, name)

    def node(self, job_id: str) -> Locator:
        """A job in the drawing of a flow."""
        return self.page.get_by_role("application").get_by_role("group", name=re.compile(rf", id {job_id}$"))

    def _tab(self, state: str) -> Locator:
        name = self.page.get_by_text(state.replace("-", " ").upper(), exact=True)
        return self.main.locator("[class*=statusTabs-] li").filter(has=name)

    # ---------------------------------------------------------------- what to press

    def button(self, job_id: str, name: str) -> Locator:
        """A button of a job."""
        return self.card(job_id).locator(f"button:has(svg.lucide-{BUTTONS[name]})")

    async def choose(self, item: str) -> None:
        """Choose from the menu of the queue that is open."""
        await self.main.locator("[class*=trailing-] button[aria-haspopup=menu]").click()
        await self.page.get_by_role("menuitem", name=item).click()

    def field(self, label: str) -> Locator:
        """A field of the dialog."""
        name = self.page.get_by_text(label, exact=True)
        return self.dialog.locator("[class*=field-]").filter(has=name).locator("[role=textbox], input:visible")

    async def answer(self, button: str) -> None:
        """Press a button of the dialog, and wait until the board has done what was asked."""
        await self.press(self.dialog.get_by_role("button", name=button, exact=True))
        await expect(self.dialog).to_have_count(0)

    async def dismiss(self) -> None:
        """Close the dialog."""
        await self.dialog.get_by_role("button", name="Close").click()
        await expect(self.dialog).to_have_count(0)

    async def press(self, button: Locator) -> None:
        """Press what changes something, and wait until the board has done it."""
        async with self.page.expect_response(_is_change) as changing:
            await button.click()
        response = await changing.value
        assert response.ok, f"{response.request.method} {response.url}: {response.status} {await response.text()}"

    # ---------------------------------------------------------------- what it looks like

    async def photograph(self, name: str, folder: Path) -> None:
        """Take pictures in light and dark, wide and narrow. No word on them may be nonsense."""
        said = await self.page.locator("body").inner_text()
        assert not NONSENSE.search(said), f"{name} says {NONSENSE.search(said)}: {said}"
        for size in (WIDE, NARROW):
            await self.page.set_viewport_size(size)
            for scheme in ("dark", "light"):
                await self.page.emulate_media(color_scheme=scheme)
                path = folder / f"{name}-{scheme}-{size['width']}.png"
                await self.page.screenshot(path=path, animations="disabled", style=STILL)
        await self.page.set_viewport_size(WIDE)

    # ---------------------------------------------------------------- what must not be

    async def watch(self) -> None:
        """From now on the page reaches the board alone, and whatever goes wrong in it is noted."""
        await self.page.route("**/*", self._guard)
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self._troubles.append(f"a script of the page failed: {error}"))
        self.page.on("response", self._note_answer)

    def troubles(self) -> list[str]:
        """What has gone wrong since this was last asked."""
        noted, self._troubles = self._troubles, []
        return noted

    async def _guard(self, route: Route) -> None:
        url = route.request.url
        if url.startswith(self._address + "/"):
            await route.continue_()
        elif url.startswith(FONTS):
            await route.fulfill(content_type="text/css", body="")
        else:
            self._troubles.append(f"the page asked for {url}")
            await route.abort()

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._troubles.append(f"the console says {message.text}")

    def _note_answer(self, response: Response) -> None:
        if response.status >= 400:
            self._troubles.append(f"{response.url} answered {response.status}")


def _is_change(response: Response) -> bool:
    return "/api/" in response.url and response.request.method != "GET"


def midday_zone() -> str:
    """A time zone in which it is about noon: the board leaves out the time of what is not of today."""
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


def as_shown(at_ms: int | None, zone: str) -> str:
    """A moment of today as the board writes it."""
    assert at_ms is not None
    return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone)).strftime("%-I:%M:%S %p")

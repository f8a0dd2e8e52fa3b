"""A headless browser, where the machine has one: what a page looks like at several widths."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip
# reports from inside the page: how wide it is, what sticks out of it, and what it says
_PROBE = """<script>
addEventListener("load", () => {
  const seen = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const doc = frame.contentDocument, root = doc.documentElement, out = [];
    for (const e of doc.querySelectorAll("body *")) {
      const box = e.getBoundingClientRect(), scrolls = e.closest(".scroll") || e.closest("details:not([open])");
      if (box.width && box.right > root.clientWidth + 1 && !scrolls) out.push(e.className + ": " + e.textContent.trim().slice(0, 60));
    }
    const pictures = [...doc.images].every(i => i.complete && i.naturalWidth > 0);
    seen[frame.id] = {width: root.scrollWidth, room: root.clientWidth, height: root.scrollHeight, out: out.slice(0, 5), pictures, text: doc.body.innerText};
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""  # noqa: E501  # JavaScript


@dataclass(frozen=True, slots=True)
class Look:
    """What the browser saw at one width, in CSS pixels."""

    width: int
    room: int
    height: int
    sticks_out: list[str]
    pictures: bool
    text: str


def browser() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look(page: str, widths: tuple[int, ...], folder: Path) -> tuple[dict[int, Look], list[str]]:
    """The page at every width, and what the browser's console said."""
    frames = "".join(
        f'<iframe id="w{w}" width="{w}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        for w in widths
    )
    probe = folder / "probe.html"
    probe.write_text(f'<!DOCTYPE html>{_PROBE}<pre id="seen"></pre>{frames}', encoding="utf-8")
    said = _run(folder, "--dump-dom", probe.as_uri())
    match = re.search(r'<pre id="seen">(.*?)</pre>', said.stdout, re.DOTALL)
    assert match is not None, said.stderr[-2000:]
    seen = json.loads(html.unescape(match[1]))
    looks = {
        w: Look(v["width"], v["room"], v["height"], v["out"], v["pictures"], v["text"])
        for w in widths
        if (v := seen[f"w{w}"])
    }
    return looks, [line for line in said.stderr.splitlines() if "CONSOLE" in line]


def print_pdf(page: Path, out: Path, folder: Path) -> None:
    """The page as a printer gets it."""
    _run(folder, "--no-pdf-header-footer", f"--print-to-pdf={out}", page.as_uri())


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = browser()
    assert path is not None  # callers skip where there is none
    command = [path, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

"""Opens a page in a headless Chromium and counts what a reader would miss."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

# Stands after the page: the page once more, in a frame as narrow as a telephone, and a script that
# replaces the body by what it counted.
PROBE = """
<iframe width="400" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const images = [...document.images];
  const narrow = document.querySelector("iframe").contentDocument.documentElement;
  const facts = {{
    title: document.title,
    images: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    unnamed: images.filter(i => !i.alt).length,
    headings: [...document.querySelectorAll("h2")].map(h => h.textContent),
    warnings: document.querySelectorAll("[role=alert]").length,
    bold: [...document.querySelectorAll("td.best")].map(c => c.textContent),
    narrow: narrow.clientWidth,
    overflow: narrow.scrollWidth - narrow.clientWidth,
  }};
  document.body.innerHTML = "<pre id=facts></pre>";
  document.getElementById("facts").textContent = JSON.stringify(facts);
}});
</script>
"""


def page_facts(browser: str, page: Path) -> dict[str, Any]:
    """Open a copy of the page and report what the browser made of it."""
    with TemporaryDirectory() as folder:
        copy = Path(folder, "page.html")
        text = page.read_text(encoding="utf-8")
        copy.write_text(text + PROBE.format(page=html.escape(text)), encoding="utf-8")
        profile = f"--user-data-dir={folder}/profile"
        command = [browser, *FLAGS, profile, "--dump-dom", copy.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="facts">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the page did not load: {done.stdout[-500:]} {done.stderr[-500:]}"
    return json.loads(html.unescape(found[1]))

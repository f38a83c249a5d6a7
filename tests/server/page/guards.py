"""Records what must never happen in the page, whatever a test does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page


def watch(page: Page, origin: str, complaints: list[str]) -> None:
    """Adds to `complaints` each request elsewhere, violation of the policy, dialog, window, and error of a script."""

    def on_request(request: Any) -> None:
        if not request.url.startswith((f"{origin}/", f"blob:{origin}/")):
            complaints.append(f"a request to {request.url}")

    def on_console(message: Any) -> None:
        if "Content Security Policy" in message.text:
            complaints.append(message.text)

    def on_dialog(dialog: Any) -> None:
        complaints.append(f"a script opened a dialog: {dialog.message}")
        dialog.dismiss()

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("dialog", on_dialog)
    page.on("pageerror", lambda error: complaints.append(f"an error in a script: {error}"))
    page.on("popup", lambda popup: complaints.append(f"a window with {popup.url}"))

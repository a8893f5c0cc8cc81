"""El editor de prompt_toolkit, el extra ``interactivo``: mientras se escribe, lo que llega se muestra encima.

Es el único fichero que importa prompt_toolkit; quien elige el editor es ``line_editor.py``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, get_app, run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus, is_searching
from prompt_toolkit.history import History as Past
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.search import accept_search
from prompt_toolkit.shortcuts import CompleteStyle

from .dialogue import Talk
from .history import History
from .line_editor import LineEditor, earlier
from .reconnection import GLANCE


class PromptToolkitEditor(LineEditor):
    """El editor más cómodo. Error: el que dé prompt_toolkit si no sabe qué hacer con esta consola."""

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._tail = ""  # lo pegado detrás del primer salto de línea, que acaba el mensaje
        # Preguntar a la terminal dónde está el cursor no hace falta sin menús, y las que no contestan reciben un aviso.
        os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
        self._session: PromptSession[str] = PromptSession(
            history=_Recent(history),
            completer=_Earlier(history),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            enable_suspend=True,
            key_bindings=self._keys(),
        )

    def _read(self, prompt: str, start: str, talk: Talk) -> str | None:
        def begin() -> None:
            app = get_app()
            app.create_background_task(_watch(app, talk))

        try:
            line: str = self._session.prompt(prompt, default=start, pre_run=begin)
        except EOFError:
            return None
        tail, self._tail = self._tail, ""
        return line + tail

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add(Keys.BracketedPaste, filter=has_focus(DEFAULT_BUFFER))
        def paste(event: KeyPressEvent) -> None:
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            first, newline, rest = text.partition("\n")
            event.current_buffer.insert_text(first)
            if newline:
                self._tail = newline + rest
                event.current_buffer.validate_and_handle()

        @keys.add(Keys.Enter, filter=is_searching)
        def send_found(event: KeyPressEvent) -> None:  # como en readline
            accept_search()
            event.current_buffer.validate_and_handle()

        @keys.add(Keys.Vt100MouseEvent)
        def mouse(event: KeyPressEvent) -> None:
            """Nadie la pidió: es un color pegado (ESC [ 31 m), que prompt_toolkit toma por ella, y falla al leerla."""

        return keys


async def _watch(app: Application[str], talk: Talk) -> None:
    """Mientras se escribe, muestra encima lo que va llegando."""
    while True:
        await asyncio.sleep(GLANCE)
        try:
            if talk.poll():
                await run_in_terminal(talk.tell)
        except Exception as error:
            if not app.is_done:
                app.exit(exception=error)
            return


class _Recent(Past):
    """El historial, como lo pide prompt_toolkit; guardarlo es cosa de ``LineEditor``."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    async def load(self) -> AsyncGenerator[str, None]:
        for entry in reversed(self._history.entries):
            yield entry

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._history.entries)

    def store_string(self, string: str) -> None:
        pass

    def append_string(self, string: str) -> None:
        pass


class _Earlier(Completer):
    """Completa con los mensajes anteriores."""

    def __init__(self, history: History) -> None:
        self._history = history

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        start = document.text_before_cursor
        for entry in earlier(self._history.entries, start):
            yield Completion(entry, start_position=-len(start))

"""Con qué escribe la persona: qué editor de líneas hay en esta máquina, y el de readline.

El de prompt_toolkit está en ``prompt_toolkit_editor.py``, y el que no edita nada, en ``dialogue.py``. Solo se carga en
una terminal: por una tubería no hay nada que editar.
"""

from __future__ import annotations

import codecs
import contextlib
import locale
import os
import select
import signal
import sys
from collections import deque
from collections.abc import Callable

from .dialogue import Editor, PlainEditor, Talk
from .history import History, history_path
from .terminal import escape, say

TYPE_CHECKING = False  # como la de typing, sin pagar su importación
if TYPE_CHECKING:
    from typing import Any

_ENDINGS = ("SIGTERM", "SIGHUP")  # las señales que piden acabar; en Windows no está la segunda


def open_editor(*, keep_history: bool) -> Editor:
    """El mejor editor que hay aquí. ``keep_history``: si los mensajes se guardan para la próxima vez."""
    if os.name != "nt" and os.environ.get("TERM", "") in ("", "dumb"):  # una terminal que no sabe mover el cursor
        return PlainEditor()
    for name in _ENDINGS:
        # Que la terminal quede como estaba. El código es el que da cualquier shell a quien acaba por esa señal.
        _heed(name, lambda number, _: sys.exit(128 + number))
    history = History(history_path() if keep_history else None)
    try:
        from .prompt_toolkit_editor import PromptToolkitEditor

        return PromptToolkitEditor(history)
    except Exception:  # noqa: S110  # no está, no la conocemos, o no sabe con esta consola: hay otras maneras
        pass
    if not _system_reads_as_we_do():
        return PlainEditor()
    try:
        return ReadlineEditor(history)
    except ImportError:  # en Windows no existe
        return PlainEditor()


def _heed(name: str, answer: Callable[[int, object], object]) -> None:
    """Desde ahora, a la señal ``name`` se atiende con ``answer``, salvo que no la haya o que quien nos lanzó pidiera no
    atenderla (``nohup``)."""
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, answer)


def _system_reads_as_we_do() -> bool:
    """Si la entrada está en la codificación del sistema, que es la única que conoce readline: con ``LC_ALL=C`` tomaría
    una «ñ» por dos letras, y borraría media."""
    try:
        system = codecs.lookup(locale.nl_langinfo(locale.CODESET))
        return system.name == codecs.lookup(sys.stdin.encoding).name
    except (AttributeError, LookupError):  # en Windows no hay a quién preguntar
        return False


class LineEditor(Editor):
    """Lo común a los dos editores: varias líneas pegadas son varios mensajes, y todos quedan en el historial.

    Quien hereda dice cómo se lee una línea, que puede traer más detrás.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._pasted: deque[str] = deque()  # las líneas enteras que faltan de lo pegado
        self._start = ""  # y lo que había detrás de la última, que aún se puede editar
        self._keyboard = _Keyboard()

    def ask(self, prompt: str, talk: Talk) -> str | None:
        if self._pasted:
            text = self._pasted.popleft()
            say(f"{prompt}{escape(text)}")
        else:
            self._keyboard.hold()
            self._get_ready(talk)
            line = self._read(prompt, self._start, talk)
            if line is None:
                return None
            text, *more = line.split("\n")
            self._start = more.pop() if more else ""
            self._pasted.extend(more)
        if self._history.add(text):
            self._remember(text)
        return text

    def close(self) -> None:
        self._keyboard.release()

    def _get_ready(self, talk: Talk) -> None:
        """Lo que haya que hacer antes de leer."""

    def _read(self, prompt: str, start: str, talk: Talk) -> str | None:
        """Lo que escriba la persona detrás de ``start``, o ``None`` si la entrada terminó."""
        raise NotImplementedError

    def _remember(self, text: str) -> None:
        """``text`` acaba de entrar en el historial."""


class ReadlineEditor(LineEditor):
    """El de la biblioteca estándar. Error: ``ImportError`` si este Python no lo trae."""

    def __init__(self, history: History) -> None:
        import readline

        super().__init__(history)
        self._readline = readline
        self._matches: list[str] = []
        readline.set_auto_history(False)
        readline.set_completer_delims("")  # se completa el mensaje entero, no su última palabra
        readline.set_completer(self._complete)
        if "libedit" in (readline.__doc__ or ""):  # el de macOS
            readline.parse_and_bind("bind ^I rl_complete")
            readline.parse_and_bind("bind ^R em-inc-search-prev")
        else:
            readline.parse_and_bind("tab: complete")
            # Una línea pegada se envía según llega, como en los demás editores; Python ya lo deja así desde la 3.10.
            readline.parse_and_bind("set enable-bracketed-paste off")
            readline.parse_and_bind("set enable-meta-key off")  # su aviso a la terminal ensucia lo que graba «script»
        for entry in history.entries:
            self._remember(entry)

    def _get_ready(self, talk: Talk) -> None:
        talk.wait()  # mientras readline lee no se puede mirar nada más

    def _read(self, prompt: str, start: str, talk: Talk) -> str | None:
        if start:
            self._readline.set_startup_hook(lambda: self._readline.insert_text(start))
        self._keyboard.hold(echo=True)  # readline no muestra lo que se escribe si la terminal no lo hacía
        try:
            return input(prompt)
        except EOFError:
            say("")  # Ctrl-D no baja de línea
            return None
        finally:
            self._keyboard.hold()
            self._readline.set_startup_hook(None)

    def _remember(self, text: str) -> None:
        with contextlib.suppress(UnicodeEncodeError):  # de cuando la terminal estaba en otra codificación
            self._readline.add_history(text)

    def _complete(self, text: str, number: int) -> str | None:
        """Lo que readline pide con el tabulador: el mensaje anterior número ``number`` que empieza por ``text``."""
        if number == 0:
            # Con más teclas ya esperando no lo pulsó nadie: es parte de lo pegado.
            pasted = os.name == "posix" and bool(select.select([sys.stdin], [], [], 0)[0])
            self._matches = [text + "\t"] if pasted else earlier(self._history.entries, text)
        return self._matches[number] if number < len(self._matches) else None


class _Keyboard:
    """La terminal, mientras no lee el editor: lo tecleado entonces espera, sin mezclarse con lo que se muestra.

    Espera tal cual: si el sistema juntara las teclas en líneas, un Ctrl-D tecleado a destiempo dejaría de serlo
    (n_tty de Linux se lo da como un cero a quien después lee tecla a tecla) y no acabaría nada.

    Donde no hay ``termios`` (Windows) no hace nada: allí nadie repite las teclas mientras no se lee.
    """

    def __init__(self) -> None:
        self._usual: list[Any] | None = None
        try:
            import termios
        except ImportError:
            return
        with contextlib.suppress(termios.error, OSError):
            self._usual = termios.tcgetattr(sys.stdin)
            # Ctrl-Z y Ctrl-\: la shell se queda con la terminal, y no todas la arreglan (dash no).
            _heed("SIGTSTP", self._give_way)
            _heed("SIGQUIT", self._give_way)

    def hold(self, *, echo: bool = False) -> None:
        """Las teclas se guardan según llegan. ``echo``: si además la terminal las repite."""
        self._set(without=["ICANON"] if echo else ["ICANON", "ECHO"])

    def release(self) -> None:
        """La terminal, como estaba."""
        self._set(without=[])

    def _give_way(self, number: int, _: object) -> None:
        """Lo que esa señal hace a cualquier programa, pero con la terminal como estaba. Si es pararse, al seguir la
        terminal vuelve a ser la que el programa dejó."""
        import termios

        ours: list[Any] | None = None
        with contextlib.suppress(termios.error):
            ours = termios.tcgetattr(sys.stdin)
        self.release()
        heeded = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, heeded)
        if ours is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, ours)

    def _set(self, without: list[str]) -> None:
        if self._usual is None:
            return
        import termios

        chosen = list(self._usual)
        for name in without:
            chosen[3] &= ~getattr(termios, name)  # 3: los modos locales (POSIX, termios.h)
        with contextlib.suppress(termios.error):  # ya no hay terminal
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, chosen)


def earlier(entries: list[str], start: str) -> list[str]:
    """Los mensajes distintos que empiezan por ``start``, del más nuevo al más viejo; sin nada escrito, ninguno."""
    return list(dict.fromkeys(entry for entry in reversed(entries) if start and entry.startswith(start)))

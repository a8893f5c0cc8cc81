"""``traces.py``: por dónde pasó una excepción, en pocas líneas y sin los pasos de esta casa."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from comunicacion_tcp.cli.sentences import named
from comunicacion_tcp.cli.traces import trace
from comunicacion_tcp.protocol import ServerProtocol

HERE = f'File "{__file__}", line '


def caught(function: object, text: str = "hola") -> BaseException:
    """La excepción con que falla un servicio, tal como la cuenta el protocolo."""
    conversation = ServerProtocol(function)  # type: ignore[arg-type]
    conversation.receive_data(text.encode() + b"\n")
    (bad,) = conversation.take_bad_messages()
    assert bad.__cause__
    return bad.__cause__


def fail(text: str) -> str:
    return inside(text)


def inside(text: str) -> str:
    raise ValueError(text)


def chained(text: str) -> str:
    try:
        return inside(text)
    except ValueError as error:
        raise KeyError("fuera") from error


def hidden(text: str) -> str:
    try:
        return inside(text)
    except ValueError:
        raise KeyError("fuera") from None


def endless(text: str) -> str:
    return endless(text)


def steps(lines: list[str]) -> list[str]:
    """Las funciones por las que pasó, y lo que hay entre medias."""
    names = [line.rpartition(" in ")[2] if line.startswith(HERE) else line for line in lines]
    return [name for name in names if not name.startswith("  ")]


def test_the_path_without_our_own_steps() -> None:
    lines = trace(caught(fail))
    assert steps(lines) == ["fail", "inside"]
    assert lines[1::2] == ["  return inside(text)", "  raise ValueError(text)"]


def test_what_it_is_due_to() -> None:
    assert steps(trace(caught(chained))) == ["chained", "debido a ValueError: hola", "chained", "inside"]
    assert steps(trace(caught(hidden))) == ["hidden"]


def test_an_endless_recursion_is_a_few_lines() -> None:
    names = steps(trace(caught(endless)))
    assert names[:3] + names[4:] == ["endless"] * 10
    assert names[3].startswith("... ")
    assert names[3].endswith(" pasos más ...")


def test_long_chains_and_circles_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert trace(first) == ["debido a ValueError: b"]
    error: BaseException = ValueError("0")
    for number in range(1, 1000):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    assert len(trace(error)) == 3


def test_without_its_source_it_is_the_place_alone() -> None:
    namespace: dict[str, object] = {}
    exec(compile("def f(text): return 1 / 0", "<no está>", "exec"), namespace)
    assert trace(caught(namespace["f"])) == ['File "<no está>", line 1, in f']


def test_a_long_line_of_source_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "ancho.py"
    path.write_text(f"def f(text): return 1 / 0{' ' * 300}# {'x' * 300}\n", encoding="utf-8")
    namespace: dict[str, object] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    assert len(trace(caught(namespace["f"]))[1]) == 202


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("ni esto")


def test_an_exception_of_another_is_named_whatever_it_does() -> None:
    assert named(ValueError("no")) == "ValueError: no"
    assert named(ValueError()) == "ValueError"
    assert named(Unspeakable()) == "Unspeakable: no se sabe decir"
    assert len(named(ValueError("x" * 1_000_000))) < 600


def test_an_exception_without_a_path() -> None:
    assert trace(ValueError("suelta")) == []
    assert isinstance(caught(fail).__traceback__, TracebackType)

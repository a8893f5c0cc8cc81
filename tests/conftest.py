"""Lo común a todas las pruebas: cuántos ejemplos prueba hypothesis y qué hay que arrancar y parar."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import is_hypothesis_test, settings

from .support import loops
from .support.certificates import Certificates

# Sin base de datos de ejemplos: una prueba no deja nada detrás. Sin plazo: una prueba no mide tiempos.
settings.register_profile("dev", max_examples=200, deadline=None, database=None)
settings.register_profile("ci", max_examples=3_000, deadline=None, database=None)
settings.register_profile("long", max_examples=100_000, deadline=None, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# Un proceso hereda las señales que se ignoran, y nohup, o un guion que lanza las pruebas al fondo (&), hace ignorar
# algunas. Los programas que se prueban empiezan como en una terminal.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

# Las pruebas en que hay un servidor de verdad van dos veces: con el bucle de asyncio y con el extra «rapido».
_ON_BOTH_LOOPS = {
    "test_server",
    "test_held",
    "test_slow_readers",
    "test_own_services",
    "test_introduction",
    "test_tls_transport",
    "test_listener",
    "test_foreign_programs",
    "test_many_clients",
    "test_loops",
    "test_aio",
    "test_reloading",
    "test_measuring",
    "test_service_ends",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repite con cada bucle las pruebas de los ficheros de arriba, salvo las propiedades, que no tienen bucle."""
    of_a_server = metafunc.module.__name__.rpartition(".")[2] in _ON_BOTH_LOOPS
    both = of_a_server and not is_hypothesis_test(metafunc.function)
    metafunc.parametrize("loop_kind", [loops.STANDARD, loops.FAST] if both else [loops.STANDARD], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Una propiedad con sus miles de ejemplos, en una máquina ocupada, tarda lo suyo; con el perfil long, horas."""
    for item in items:
        if isinstance(item, pytest.Function) and is_hypothesis_test(item.function):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(autouse=True)
def loop_kind(request: pytest.FixtureRequest) -> str:
    loops.choose(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Una autoridad de pega y lo que firma. Quien cambie un fichero, que cambie una copia."""
    return Certificates(tmp_path_factory.mktemp("certificados"))

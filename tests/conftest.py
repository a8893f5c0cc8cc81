"""Lo común a todas las pruebas: cuántos ejemplos prueba hypothesis y qué hay que arrancar y parar."""

from __future__ import annotations

import os

from hypothesis import settings

# Sin base de datos de ejemplos: una prueba no deja nada detrás. Sin plazo: una prueba no mide tiempos.
settings.register_profile("dev", max_examples=200, deadline=None, database=None)
settings.register_profile("ci", max_examples=3_000, deadline=None, database=None)
settings.register_profile("long", max_examples=100_000, deadline=None, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

"""Los escenarios, por familias. Cada uno arranca su servidor, le hace algo y da sus cifras, o dice por qué no se puede.

amplification.py  lo que cuesta cada byte que se le envía
crowds.py     muchos a la vez
hostile.py    clientes que se portan mal
machine.py    la máquina falla, o alguien para el servidor
memory.py     lo que ocupa una conexión
paths.py      la red falla
slow.py       clientes lentos, que no tienen prisa
processes.py  varios procesos: mueren, se cuelgan, se recargan
"""

from __future__ import annotations

from . import amplification, crowds, hostile, machine, memory, paths, processes, slow

SCENARIOS = sorted(
    [
        *amplification.SCENARIOS,
        *crowds.SCENARIOS,
        *hostile.SCENARIOS,
        *machine.SCENARIOS,
        *memory.SCENARIOS,
        *paths.SCENARIOS,
        *slow.SCENARIOS,
        *processes.SCENARIOS,
    ],
    key=lambda scenario: scenario.row,
)
"""Todos, en el orden de las filas de ``docs/fiabilidad.md``."""

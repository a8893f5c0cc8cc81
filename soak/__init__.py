"""`make soak`: lo que aguanta el servidor, medido con su programa de verdad y cada respuesta comprobada.

oracle.py      qué se envía y qué debe volver; puro
load.py        las cargas, cada una en su proceso, y sus latencias
server.py      el servidor bajo prueba: arrancarlo, mirarlo por fuera, pararlo
networks.py    espacios de nombres de red; relay.py, el camino malo que los une
own_services.py  el servicio, si hace falta uno propio
scale.py       cuánto: la medida entera y la corta de las pruebas
results.py     lo que da un escenario
scenarios/     los escenarios, por familias
run.py         el programa: los ejecuta y escribe su tabla
"""

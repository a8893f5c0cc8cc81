"""El servicio más corto: devuelve las palabras al revés.

    python3 Servidor_TCP.py --servicio examples.palabras:responder

Un servicio es una función que recibe un texto y devuelve otro. Nada más: aquí no hay sockets, ni bytes, ni clientes.
"""


def responder(text: str) -> str:
    """``text``: un mensaje, sin su salto de línea. Devuelve lo que se responde, también sin él."""
    return " ".join(reversed(text.split()))

"""Los dos programas, y el único sitio donde se lee o se escribe para una persona.

    server.py      servidor-tcp
    client.py      cliente-tcp: sus opciones y sus códigos de salida
    dialogue.py    el diálogo con una persona
    reloading.py   --recargar: mira si cambió el servicio y lo cambia sin parar
    report.py      lo que se cuenta del servidor: la frase, su gravedad y cuántas veces
    log.py         cada suceso, un registro de logging: llano, con fecha o JSON
    output.py      la salida del servidor, que nunca lo detiene
    traces.py      de dónde salió una excepción, en pocas líneas
    sentences.py   cada error, como frase: qué pasó y qué hacer
    parser.py      argparse en español
    settings.py    los límites, como opciones
    terminal.py    la salida y la entrada: codificación, escapes, una línea cada vez

Aquí no hay protocolo ni sockets.
"""

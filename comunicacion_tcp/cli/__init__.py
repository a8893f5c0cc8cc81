"""Los dos programas, y el único sitio donde se lee o se escribe para una persona.

    server.py      servidor-tcp: sus opciones
    serving.py     un proceso que sirve, solo o con otros
    checking.py    --comprobar: si lo que se pide vale, sin servir
    processes.py   --procesos: el padre de los que sirven
    client.py      cliente-tcp: sus opciones y sus códigos de salida
    dialogue.py    el diálogo con una persona
    line_editor.py con qué escribe en una terminal: qué editor hay, y el de readline
    prompt_toolkit_editor.py  el del extra «interactivo»
    history.py     los mensajes de otras veces
    reconnection.py  el diálogo que vuelve a conectar
    colour.py      el color, si lo hay
    one_shot.py    un mensaje, y su respuesta sola
    repeat.py      el mismo mensaje muchas veces, y el resumen de sus tiempos
    plain.py       la orden más corriente de -q, entendida sin argparse
    pipe.py        una tubería: cada línea, su respuesta, y cuánto falta
    lines.py       cada línea de la entrada, un objeto JSON
    exchange.py    un mensaje y su respuesta, medidos y escritos: lo común a los modos de antes
    reloading.py   --recargar: mira si cambió el servicio y lo cambia sin parar
    under_systemd.py  lo que se le va contando a systemd
    metrics.py     --metricas: dónde se piden, y qué se dice si no se puede
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

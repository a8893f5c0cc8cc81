"""Todos los límites y plazos, una sola vez, cada número con su razón.

Aquí no se aplica ninguno: los aplican ``protocol.py`` (tamaños), ``connection.py``, ``supervision.py`` y
``conversation.py`` (plazos).
"""

from __future__ import annotations

from .records import Record

MIB = 1024 * 1024


class Limits(Record):
    """Los límites de un servidor o de un cliente. Tamaños en bytes, plazos en segundos.

    Errores: ``ValueError`` si alguno no está entre 0 y ``LARGEST``, si es 0 uno que no esté en ``OPTIONAL``, o si
    juntos no son posibles.
    """

    # -- mensajes y respuestas

    max_message: int = MIB
    """Bytes de un mensaje sin su terminador. Un texto de persona no llega; un fichero pegado por error, sí."""

    max_output: int = 4 * MIB
    """Bytes de una respuesta: el mayor mensaje, que en mayúsculas puede triplicarse, y un poco más. Con ``high_water``
    es lo que ocupa quien no lee, cifre o no (make soak, fila 39), aparte del mensaje que tenga a medias y de los
    búferes del sistema."""

    high_water: int = MIB // 4
    """Bytes de respuestas que se preparan de una vez: hasta que el cliente no los lee, ni se le responde más ni se le
    lee. Cuatro lecturas, o una y lo que crezcan sus mayúsculas."""

    max_held: int = 1024 * MIB
    """Bytes que guardan entre todas las conversaciones de un proceso, de respuestas sin leer y mensajes sin acabar. Si
    pasan, se corta (RST) la que más guarda: mejor una que todas, que es lo que hace el sistema cuando falta memoria.
    Son 250 clientes que no leen nada, o 10 000 atrasados 100 KiB. En la memoria ocupan hasta el doble
    (docs/escalado.md): en una máquina pequeña, pon una cuarta parte de lo que tenga el proceso. 0: sin máximo."""

    messages_per_turn: int = 500
    """Mensajes que se responden de uno en uno en un turno (``TURN``): como mucho, 1 o 2 ms con una función corta. Los
    que van en bloque no cuentan."""

    message_timeout: float = 10.0
    """Desde que un mensaje empieza hasta que acaba; sus bytes no lo renuevan. A 1 MiB le basta una línea de 1 Mbit/s;
    a quien envía un byte cada mucho para ocupar sitio, no. No avanza mientras al cliente le falte algo por recibir:
    quizá no puede enviar hasta que alguien lea lo suyo."""

    goodbye_silence: float = 0.020
    """Silencio tras el que un cliente sin terminador ya no va a completar una despedida empezada. Muchas veces lo que
    separa dos segmentos seguidos (en una red local, menos de 1 ms); por debajo de lo que una persona nota (100 ms)."""

    # -- el servicio

    service_timeout: float = 20.0
    """Lo que puede tardar el servicio en responder un mensaje, con lo que espere a que le toque. Menos que lo que
    espera un cliente (``reply_timeout``), para que lea el error y siga. 0: lo que quiera. Una función que se ejecuta
    en el mismo hilo que atiende a todos no se puede interrumpir: a esas no se les aplica."""

    # -- conexiones

    max_connections: int = 10_000
    """Conversaciones a la vez: el problema C10K. Cada una es también un descriptor: si no hay tantos, serán menos."""

    max_per_address: int = 0
    """Conversaciones a la vez desde una dirección (en IPv6, desde una red /64: es lo que se da a un cliente). 0: las
    que quepan, porque detrás de un NAT o de un balanceador una dirección son muchos. Abierto a internet, pon uno."""

    reserve: int = 32
    """Descriptores que no se dan a conversaciones: los de los rechazados mientras se les dice que no, los de los
    ficheros del programa y los que abra un servicio."""

    backlog: int = 1024
    """Cola del sistema de conexiones por aceptar. Si se llena, quien llega espera 1 s a que TCP reintente."""

    handshake_timeout: float = 10.0
    """Para el saludo de TLS entero, que son una o dos idas y vueltas: lo mismo que para conectar, y por lo mismo. En el
    servidor es además lo que puede ocupar un sitio quien conecta y no dice nada, y lo que se espera a la cabecera PROXY
    de un balanceador."""

    accept_pause: float = 1.0
    """Sin poder aceptar (no quedan descriptores), hasta volver a intentarlo: quien espera en cola apenas lo nota, y
    una línea de queja por segundo aún se lee."""

    # -- clientes que no están, o como si no estuvieran

    idle_timeout: float = 0.0
    """Sin recibir nada de un cliente, hasta cerrarle. 0: nunca, porque una persona ante un teclado puede pensar lo que
    quiera; de quien ya no está se ocupa ``keepalive``. No avanza mientras al cliente le falte algo por recibir."""

    output_timeout: float = 60.0
    """Sin que un cliente reciba ni un byte de lo que se le debe, hasta cortarle (RST): lo que espera nginx
    (send_timeout). Cuenta lo que su sistema da por recibido, que hace sitio a saltos. Medidos en Linux: de 100 KB, y de
    800 si antes leyó deprisa, que a 16 kB por segundo son 50 s."""

    keepalive: float = 60.0
    """Sin noticias de la máquina del cliente, hasta preguntarle (RFC 9293, 3.8.4); si no contesta en otro tanto, se da
    por perdida, también si se le debe algo. Menos de lo que un NAT recuerda una conexión (RFC 5382: más de 2 h; los
    malos, 5 min). 0: no se pregunta."""

    # -- cerrar

    linger: float = 2.0
    """Tras nuestro FIN, y recibido todo, se lee y se tira lo que llegue hasta que el cliente calle este tiempo (y como
    mucho ``drain``): cerrar con entrada sin leer haría al núcleo mandar RST y perder la respuesta. Dos segundos son dos
    retransmisiones en una red mala (como Apache). No hay tope de bytes: tirarlos cuesta menos que responderlos."""

    linger_quiet: float = 0.5
    """Al detener el servidor, un cliente que calla este tiempo tras nuestro FIN ya no tiene nada en vuelo:
    no se espera más por él (si no, Ctrl-C tardaría ``linger`` con un solo cliente pensando)."""

    drain: float = 10.0
    """Para entregar lo debido al detener el servidor, se lea o no: lo que docker espera antes de matar un proceso
    (systemd, 90 s). Lo que quede entonces en el sistema lo entrega él; a quien se le deba más se le corta (RST)."""

    # -- varios procesos

    worker_timeout: float = 10.0
    """Sin señales de vida de un proceso, hasta matarlo y poner otro. Da una por segundo: diez perdidas no son una
    máquina lenta. Una función que se ejecuta en el hilo que atiende a todos no puede tardar más."""

    handover: float = 600.0
    """Al recargar, lo que se espera a que acaben solas las conversaciones de los procesos de antes; después se cierran
    como al detenerse. En diez minutos una persona acaba lo que hacía, y no se juntan demasiados. 0: lo que duren."""

    # -- el cliente

    connect_timeout: float = 10.0
    """Para conectar: TCP reintenta a 1, 3 y 7 s; con menos se daría por muerta una red que solo perdió un paquete."""

    reply_timeout: float = 30.0
    """Sin recibir nada de una respuesta debida. Un servicio lento (una consulta) tarda segundos, no medio minuto. Si
    al servidor le va llegando lo enviado, se espera otro tanto: por una línea lenta, un mensaje grande tarda."""

    reply_deadline: float = 300.0
    """Para una respuesta entera, lleguen como lleguen sus bytes: quien gotea uno de vez en cuando nunca calla. A la
    mayor de nuestro servidor (``max_output``) le bastan 128 kbit/s. Al menos ``reply_timeout``."""

    reply_silence: float = 0.5
    """Lo que el cliente espera, callado el servidor, antes de dar por entera una respuesta sin terminador.
    Más que una retransmisión de TCP (Linux: desde 0,2 s), para no partir en dos una respuesta que se atrasó."""

    max_reply: int = 64 * MIB
    """Bytes de una respuesta que el cliente guarda hasta que acabe: dieciséis veces la mayor de nuestro servidor, y la
    cuarta parte de la memoria de una máquina pequeña. Por ``cliente-tcp -q`` pasan sin guardarse."""

    max_unasked: int = 4 * MIB
    """Bytes de memoria de lo que el servidor dijo sin que se le preguntara y nadie ha recogido (``take_unasked``): lo
    mismo que el servidor guarda de quien no lee (``max_output``)."""

    def check(self) -> None:
        for field in self.fields():
            least = "cero o más" if field in OPTIONAL else "mayor que cero"
            value = getattr(self, field)
            if not (0 < value <= LARGEST or (value == 0 and field in OPTIONAL)):  # así tampoco pasa un NaN
                raise ValueError(f"{field} debe ser {least} y como mucho {LARGEST}")
        if self.max_message < MIN_MESSAGE:
            raise ValueError(f"max_message debe ser {MIN_MESSAGE} o más, para que quepa DESCONEXION")
        if self.worker_timeout < MIN_WORKER_TIMEOUT:
            raise ValueError(f"worker_timeout debe ser {MIN_WORKER_TIMEOUT:g} o más: en menos calla cualquiera")
        if self.reply_deadline < self.reply_timeout:
            raise ValueError("reply_deadline debe ser al menos reply_timeout: una respuesta puede tardar en empezar")
        if self.max_output < self.max_message:
            raise ValueError("max_output debe ser al menos max_message, para que la respuesta quepa")


TURN = 0.002
"""Segundos de cada vuelta del bucle para los que tienen mucho por responder, entre todos. Quien envía un mensaje suelto
espera una o dos vueltas, sean cuantos sean los otros: muy por debajo de lo que una persona nota (100 ms). Con más, a
los otros no se les atendería más deprisa: entre dos vueltas solo se mira si ha llegado algo, unos 20 us."""

PROMPT_BYTES = 2048
"""Lo recibido de una vez que se responde en el acto; si es más, espera turno. Lo de una persona, o lo de un programa
que espera cada respuesta, cabe en un segmento (1460 bytes en Ethernet). Cuesta como mucho 50 us, con las letras más
lentas de poner en mayúsculas: de quinientos a la vez, 25 ms."""

PROMPT_MESSAGES = 32
"""Lo mismo, en mensajes de los que van de uno en uno: 1 o 2 us cada uno, si la función es corta."""

LARGEST = 2**31 - 1  # en segundos o en bytes, más no lo admiten todas las llamadas de todos los sistemas
MIN_WORKER_TIMEOUT = 1.0  # segundos: una máquina ocupada puede tardar eso en dar turno a quien está bien
MIN_MESSAGE = 16  # «DESCONEXION\r» son 12: una despedida nunca puede ser un mensaje demasiado largo
OPTIONAL = frozenset(
    {"max_held", "service_timeout", "max_per_address", "reserve", "idle_timeout", "keepalive", "handover"}
)
"""Los límites que con un 0 no se aplican."""

DEFAULT_LIMITS = Limits()

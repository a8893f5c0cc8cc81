/* El generador de carga: muchas conexiones desde un solo hilo, y cada respuesta comprobada byte a byte.

   Uso: load PUERTO CONEXIONES BLOQUE RESPUESTA FICHERO SEGUNDOS [cada-vez]

   FICHERO trae, para cada conexión, BLOQUE bytes que enviar y detrás los RESPUESTA bytes que deben volver. Cada
   conexión envía su bloque, espera su respuesta entera y vuelve a empezar. Con "cada-vez" se conecta de nuevo para cada
   bloque y espera además el FIN. Cuando está todo conectado y ha calentado escribe "listo" y espera una línea; al
   acabar escribe: bloques segundos p50 p99 (microsegundos por bloque). */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_SAMPLES (1 << 24) /* 64 MiB de muestras: más de lo que cabe en una medida */

struct connection {
    int fd;
    const char *request, *expected;
    size_t sent, received;
    double started;
};

static struct sockaddr_in address = {.sin_family = AF_INET};
static size_t request_size, reply_size;
static int epoll, reconnect;
static char input[1 << 20];
static float *samples;
static size_t sample_count, blocks;

static void fail(const char *what) {
    fprintf(stderr, "load: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void open_connection(struct connection *c) {
    int one = 1;
    struct linger cut = {1, 0};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
        fail("no se puede conectar");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (reconnect) /* el servidor cierra primero: sin esto, sus TIME_WAIT agotarían los puertos */
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &cut, sizeof cut);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void push(struct connection *c) {
    ssize_t sent = send(c->fd, c->request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("el servidor cortó mientras se le enviaba");
    if (sent > 0)
        c->sent += (size_t)sent;
    struct epoll_event event = {.events = EPOLLIN | (c->sent < request_size ? EPOLLOUT : 0), .data.ptr = c};
    if (c->sent < request_size || (size_t)sent != request_size)
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void start(struct connection *c) {
    if (reconnect)
        open_connection(c);
    c->sent = c->received = 0;
    c->started = now();
    push(c);
}

/* Devuelve si el bloque acabó. */
static int pull(struct connection *c) {
    ssize_t size = recv(c->fd, input, sizeof input, 0);
    if (size < 0 && errno == EAGAIN)
        return 0;
    if (size < 0)
        fail("el servidor cortó");
    if (size == 0) {
        if (!reconnect || c->received != reply_size)
            fail("el servidor cerró antes de tiempo");
        close(c->fd);
    } else {
        if (c->received + (size_t)size > reply_size || memcmp(input, c->expected + c->received, (size_t)size))
            fail("una respuesta no es la esperada");
        c->received += (size_t)size;
        if (reconnect || c->received < reply_size)
            return 0;
    }
    if (sample_count < MOST_SAMPLES)
        samples[sample_count++] = (float)((now() - c->started) * 1e6);
    blocks++;
    return 1;
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Deja correr las conexiones esos segundos y espera a que todas acaben su bloque. */
static void run(struct connection *all, int count, double seconds) {
    struct epoll_event events[256];
    double end = now() + seconds;
    int busy = count;
    blocks = sample_count = 0;
    for (int i = 0; i < count; i++)
        start(&all[i]);
    while (busy) {
        int ready = epoll_wait(epoll, events, 256, 30000);
        if (ready < 0 && errno == EINTR) /* pararlo y que siga (SIGSTOP, SIGCONT) también interrumpe: signal(7) */
            continue;
        if (ready <= 0)
            fail("30 s sin respuesta");
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                push(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && pull(c)) {
                if (now() < end)
                    start(c);
                else
                    busy--;
            }
        }
    }
}

int main(int count, char **words) {
    if (count < 7)
        return 2;
    int connections = atoi(words[2]);
    double seconds = atof(words[6]);
    char line[16];
    address.sin_port = htons((unsigned short)atoi(words[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    request_size = (size_t)atol(words[3]);
    reply_size = (size_t)atol(words[4]);
    reconnect = count > 7;
    int file = open(words[5], O_RDONLY);
    const char *data = mmap(NULL, (request_size + reply_size) * (size_t)connections, PROT_READ, MAP_PRIVATE, file, 0);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    samples = malloc(MOST_SAMPLES * sizeof *samples);
    epoll = epoll_create1(0);
    if (file < 0 || data == MAP_FAILED || !all || !samples)
        fail("no se puede empezar");
    for (int i = 0; i < connections; i++) {
        all[i].request = data + (request_size + reply_size) * (size_t)i;
        all[i].expected = all[i].request + request_size;
        if (!reconnect)
            open_connection(&all[i]);
    }
    run(all, connections, seconds / 5); /* calentar */
    puts("listo");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;
    double started = now();
    run(all, connections, seconds);
    double took = now() - started;
    qsort(samples, sample_count, sizeof *samples, ascending);
    printf("%zu %.6f %.1f %.1f\n", blocks, took, samples[sample_count / 2], samples[sample_count * 99 / 100]);
    return 0;
}
